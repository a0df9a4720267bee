"""The kernel's own mmiotrace, driven through tracefs: what drivers in the kernel do with their devices.

``tracefs`` is its files, ``checks`` says why it cannot be used here, ``before`` what has to be put back, ``watchdog``
the process that puts it back however we end, ``inventory`` the machine's PCI devices, ``pipes`` the kernel's buffers,
``memory`` their size, ``trace`` what becomes of them, and ``record`` goes through it all.
"""
