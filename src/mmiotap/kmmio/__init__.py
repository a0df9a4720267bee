"""Probes: what kmmio is in the kernel, for user space, and independent of how a page is made to fault."""
