"""QEMU: machines of its own, and those that a start script makes."""
