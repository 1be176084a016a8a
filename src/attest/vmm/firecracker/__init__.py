"""Firecracker: a VMM for KVM hosts."""
