"""Snapshots: what decides their content, and the cache that keeps them for later runs."""
