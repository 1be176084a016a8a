/* The agent as PID 1 of an initramfs. */
#ifndef ATTEST_BOOT_H
#define ATTEST_BOOT_H

/* Set up the kernel's file systems and modules. With `attest.root=` on the kernel command line, become that root's init
 * and never return; else, and as that init itself, return when the guest is ready for the agent to be its only program.
 */
void boot_guest(char **arguments);

#endif
