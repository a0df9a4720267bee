"""Drivers in a virtual machine: QEMU logs what its devices are asked, and :func:`record` makes a trace of it."""

from mmiotap.sources.guest.record import GuestResult, record

__all__ = ["GuestResult", "record"]
