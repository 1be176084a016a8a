"""What knows of no machine: threads, time, paths, locks, the kernel's view of processes."""
