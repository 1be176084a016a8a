"""The host: what it needs to run machines, and how to get it."""
