"""The programs that run guests: one module each, one interface (`attest.vmm.base`)."""
