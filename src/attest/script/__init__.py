"""The names that a test script may use, and its run."""
