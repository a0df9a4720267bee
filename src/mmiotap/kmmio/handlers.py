"""Run the handlers of an access. If one raises, that is reported, and the device answers as if there were none."""

import traceback
from collections.abc import Callable, Iterable

from mmiotap.kmmio import access as accesses
from mmiotap.kmmio.access import Access, Phase
from mmiotap.kmmio.probe import Probe

_PRE, _OVER = Phase.PRE, Phase.OVER
Report = Callable[[str], None]

#: Files whose frames say nothing about where a handler went wrong.
OURS = (__file__, accesses.__file__)


def run(probes: Iterable[Probe], access: Access, report: Report) -> bool:
    """Call the handlers for the phase that the access is in, in the order of the probes. The last answer counts.

    Returns whether none has failed. One that has is told to ``report`` in one line; then no answer counts at all.
    """
    is_before = access.phase is _PRE
    try:
        for probe in probes:
            handler = probe.pre if is_before else probe.post
            if handler is not None:
                handler(access)
    except Exception as error:
        access.unanswered()
        report(f"{'pre' if is_before else 'post'} of {access}: {what_and_where(error)}")
        return False
    finally:
        access.phase = _OVER
    return True


def what_and_where(error: Exception) -> str:
    """``ZeroDivisionError: division by zero (device.py:12)``, the line that of the handler or of what it called."""
    what = f"{type(error).__name__}: {error}".replace("\n", " ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in OURS]
    return f"{what} ({frames[-1].filename}:{frames[-1].lineno})" if frames else what
