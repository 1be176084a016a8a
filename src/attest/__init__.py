"""attest: VM integration tests that start like unit tests."""

__version__ = "0.1.0"
