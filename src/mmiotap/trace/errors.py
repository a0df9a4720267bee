"""The exceptions that reach a user as one line of text."""


class MmiotapError(Exception):
    """Something went wrong for a reason that its text names, with the way out.

    The command line prints it as ``mmiotap: TEXT`` and exits with status 1.
    """


class UsageError(MmiotapError):
    """What was asked for makes no sense; the exit status is 2."""


class DiskError(MmiotapError, OSError):
    """A trace cannot be written: ``errno``, ``strerror`` and ``filename`` say why and where. Nothing half is left."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}: make room or use another folder"
