"""The connection to attest's agent in a guest."""
