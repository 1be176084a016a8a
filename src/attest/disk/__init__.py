"""Disks: the images that QEMU's tools make, and which file each disk of a machine is."""
