"""Which way the accesses of a recording went."""

from mmiotap.analysis.sites import sites
from mmiotap.trace.reader import Trace

#: Of all accesses of a driver, so many run patched (issue «Hot sites do not fault: live patching»).
GOAL = 0.99


def assert_mostly_patched(trace: Trace, at_least: int, hot: int = 1) -> None:
    """Fails with the sites whose accesses trapped. ``at_least``: accesses there must be; ``hot``: in a site."""
    uses = [use for use in sites(trace).uses if use.hits >= hot]
    hits, patched = sum(use.hits for use in uses), sum(use.patched for use in uses)
    others = [
        f"{use.site}: {use.instruction}: {use.patched} of {use.hits} patched; {use.state} {use.reason or ''}"
        for use in uses
        if use.patched < use.hits
    ]
    assert hits >= at_least
    assert patched >= GOAL * hits, "\n".join([f"{patched} of {hits} patched", *others])
