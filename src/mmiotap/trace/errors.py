"""The one exception that reaches a user as one line of text."""


class MmiotapError(Exception):
    """Something went wrong for a reason that its text names, with the way out.

    The command line prints it as ``mmiotap: TEXT`` and exits with status 1.
    """
