"""What machines start from: a boot, the warm cache, a snapshot."""
