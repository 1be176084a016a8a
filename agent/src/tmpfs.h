/* File systems in the guest's memory, which together leave it some: a full one is ENOSPC, and nobody is killed for it. */
#ifndef ATTEST_TMPFS_H
#define ATTEST_TMPFS_H

/* What a file system may have of the memory that is free while the guest boots, in eighths. With the root in memory
 * all of them have seven; else there is no root among them, and the others are as large as is usual. */
enum share { RUN_SHARE = 1, SHM_SHARE = 2, ROOT_SHARE = 4, USUAL_SHM_SHARE = 4 };

/* Mount one, whose root directory has this mode (octal digits). 0, or -1 with errno. */
int mount_tmpfs(const char *place, unsigned long flags, const char *mode, enum share share);
/* Let the root of a guest that has nothing but its initrd have its share; nothing happens with another root. */
void limit_initial_root(void);

#endif
