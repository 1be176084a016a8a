/* The guest's root file system: an image that is only read, and what the machine writes. */
#ifndef ATTEST_ROOT_H
#define ATTEST_ROOT_H

/* Where the root is mounted before it becomes "/". */
#define ROOT "/attest-root"

/* Mount the root, or give up.
 *
 * `image` is the disk with its file system: a disk's serial number, or a device's path. What the machine writes goes to
 * the disk that `attest.overlay=` names in the same way, and stays; without that parameter into memory. */
void mount_root(const char *image);

#endif
