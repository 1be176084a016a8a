/* What systemd would start processes for at each boot, done beforehand. */
#ifndef ATTEST_EARLY_H
#define ATTEST_EARLY_H

/* Mask those of systemd's generators for which there is nothing in a root. */
void mask_idle_generators(const char *root);

/* Let those run at the next reload that read what may have been written since the boot: the others read parameters. */
void unmask_generators(void);

/* Make the device nodes by which programs have modules loaded, as kmod-static-nodes.service does. */
void make_static_nodes(const char *root);

#endif
