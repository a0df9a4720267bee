"""The sites of a trace as a table, JSON lines or CSV."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields

from mmiotap.analysis.sites import SiteUse
from mmiotap.analysis.ways import WAYS
from mmiotap.views.statistics import ways_text
from mmiotap.views.tables import write_table
from mmiotap.views.words import printable

#: How a site is patched, by its state.
HOW = {
    "seen": "none yet",
    "jump": "jump",
    "punned": "punned jump",
    "trapped": "none",
    "back": "given back",
}

WHY = {
    "instruction": "instructions of this kind are not patched",
    "no-target": "nothing that a jump can reach is free",
    "not-writable": "the code cannot be written",
    "libc": "a string function of libc",
    "ordinary": "mostly ordinary memory",
    "changed": "the code was changed, or is in no module",
    "disabled": "patching is off",
    "no-clock": "no time-stamp counter that can be used",
}


def write_text(uses: Sequence[SiteUse], limit: int) -> None:
    """A line for all, and the table, cut after ``limit`` rows (0: not at all)."""
    total = {way: sum(getattr(use, way) for use in uses) for way in WAYS}
    print(f"{len(uses)} {'site' if len(uses) == 1 else 'sites'}, {ways_text(total)}")
    shown = uses[:limit] if limit else uses
    more = f", {len(shown)} of {len(uses)} (--limit 0: all)" if len(shown) < len(uses) else ""
    processes = len({use.pid for use in uses}) > 1
    # Few programs hand regions to the kernel.
    ways = [way for way in WAYS if way != "syscall" or total[way]]
    columns = ["site", "instruction", "patch", "width", "hits", *ways]
    rows = [[*([str(use.pid)] if processes else []), *_cells(use, ways)] for use in shown]
    write_table(f"Sites{more}", [*(["pid"] if processes else []), *columns], rows, left=4 if processes else 3)


def _cells(use: SiteUse, ways: Sequence[str]) -> list[str]:
    patch = "none: a system call" if use.syscall and use.state is None else how_text(use.state, use.reason)
    words = [printable(use.site), use.instruction or "?", patch]
    return [*words, str(use.width or "?"), str(use.hits), *(str(getattr(use, way)) for way in ways)]


def how_text(state: str | None, reason: str | None) -> str:
    """How a site is patched, or why not; words of later versions as they are."""
    how = "?" if state is None else HOW.get(state, state)
    return how if reason is None else f"{how}: {WHY.get(reason, reason)}"


def write_jsonl(uses: Sequence[SiteUse]) -> None:
    """An object a site; null where the trace does not say."""
    for use in uses:
        print(json.dumps(asdict(use)))


def write_csv(uses: Sequence[SiteUse]) -> None:
    """A header line, then a line a site; empty where the trace does not say."""
    lines = csv.DictWriter(sys.stdout, [field.name for field in fields(SiteUse)], lineterminator="\n")
    lines.writeheader()
    lines.writerows(map(asdict, uses))
