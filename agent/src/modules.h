/* The kernel modules that the initrd brings. */
#ifndef ATTEST_MODULES_H
#define ATTEST_MODULES_H

/* Load those that a list in /modules names, in its order; nothing happens where there is no such list. */
void load_modules(const char *list);

#endif
