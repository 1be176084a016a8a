"""Cloud Hypervisor: a VMM for KVM hosts."""
