"""Type checks and lint of test scripts, with the names and types that they are run with."""
