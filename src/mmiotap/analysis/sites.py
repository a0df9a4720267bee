"""The code that accesses mappings: every site, how often it did, and how it is patched or why not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis import ways
from mmiotap.analysis.groups import grouped
from mmiotap.analysis.instructions import instruction_text
from mmiotap.analysis.symbols import Symbols
from mmiotap.trace.model import Site
from mmiotap.trace.reader import Trace
from mmiotap.trace.schema import EVENTS

#: Columns of the events that are needed.
COLUMNS = ["kind", "width", "data", "pc", "pid", "flags"]

KEYS = ["pid", "pc"]
#: Counted column, how rows of it merge.
MERGE: list[tuple[str, Literal["sum", "max", "first"]]] = [
    ("width", "max"), ("code", "first"), ("hits", "sum"), *((way, "sum") for way in ways.WAYS),
]  # fmt: skip


@dataclass(frozen=True)
class SiteUse:
    """A site, and what became of its accesses: ``hits`` is the sum of those that went each way."""

    pid: int
    pc: int
    site: str  #: ``function+0x12 (module)``, see :meth:`Symbols.names`
    instruction: str | None  #: None where the trace does not say
    bytes: str | None  #: of the instruction, in hex
    width: int  #: bytes of its operand; 0: not known
    hits: int
    patched: int
    trapped: int
    stepped: int
    syscall: int
    state: str | None  #: as in :class:`mmiotap.trace.model.Site`; None where the trace does not say
    reason: str | None  #: "disabled", too, for what was only seen while patching was off


@dataclass(frozen=True)
class Sites:
    """What :func:`sites` finds."""

    uses: list[SiteUse]  #: the most hits first
    notes: list[str]  #: modules that gave no names, and why


def sites(trace: Trace) -> Sites:
    """Read the trace once, batch by batch, with memory for the distinct sites."""
    listed = [] if trace.narrowing else [(site.pid, site.pc) for site in trace.sites]  # of some events what made them
    unused = dict.fromkeys(("width", "hits", *ways.WAYS), 0) | {"code": None}
    counted = {(row["pid"], row["pc"]): row for row in _counted(trace).to_pylist()}
    return described(trace, dict.fromkeys(listed, unused) | counted)


def described(trace: Trace, counts: Mapping[tuple[int, int], Mapping[str, Any]]) -> Sites:
    """Some processes and addresses, and of each the columns of :data:`MERGE`, with what the trace knows of them."""
    known = {(site.pid, site.pc): site for site in trace.sites}
    parents = {process.pid: process.ppid for process in trace.processes}
    off = (trace.info.get("settings") or {}).get("patch") == 0
    symbols = Symbols(trace.modules, trace.processes)
    names = symbols.names([pid for pid, _ in counts], [address for _, address in counts])
    uses = [
        _use(pid, address, name, _find(known, pid, address, parents), row, off)
        for ((pid, address), row), name in zip(counts.items(), names, strict=True)
    ]
    return Sites(sorted(uses, key=lambda use: (-use.hits, use.pid, use.pc)), symbols.notes)


def _counted(trace: Trace) -> pa.Table:
    """One row for each process and address that made accesses, with the columns of :data:`MERGE`."""
    counted = grouped(_accesses(EVENTS.empty_table()), KEYS, MERGE)
    for batch in trace.batches(COLUMNS):
        seen = grouped(_accesses(batch), KEYS, MERGE)
        counted = grouped(pa.concat_tables([counted, seen]), KEYS, MERGE)
    return counted


def _accesses(batch: pa.Table) -> pa.Table:
    """The accesses of a batch whose instruction is known, each as if it were a site of its own."""
    access = pc.is_in(pc.cast(batch["kind"], pa.string()), pa.array(["read", "write", "unknown"]))
    batch = batch.filter(pc.and_(access, pc.not_equal(batch["pc"], pa.scalar(0, pa.uint64()))))
    columns: dict[str, Any] = {name: batch[name] for name in (*KEYS, "width")}
    unknown = pc.equal(pc.cast(batch["kind"], pa.string()), pa.scalar("unknown"))
    columns["code"] = pc.if_else(unknown, batch["data"], pa.scalar(None, pa.binary()))
    columns["hits"] = pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows)
    return pa.table(columns | ways.columns(batch["flags"]))


def _find(known: dict[tuple[int, int], Site], pid: int, address: int, parents: dict[int, int]) -> Site | None:
    """The site, or the one that its process was forked with: that of the nearest ancestor."""
    seen: set[int] = set()
    while (pid, address) not in known and pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
    return known.get((pid, address))


def _use(pid: int, address: int, name: str, site: Site | None, counts: Mapping[str, Any], off: bool) -> SiteUse:
    code: bytes | None = bytes.fromhex(site.bytes) if site else counts["code"]
    reason = site.reason if site else None
    if off and site and site.state == "seen":
        reason = "disabled"
    return SiteUse(
        pid=pid,
        pc=address,
        site=name,
        instruction=instruction_text(code, address) if code else None,
        bytes=code.hex() if code else None,
        width=site.width if site and site.width else counts["width"],
        hits=counts["hits"],
        patched=counts["patched"],
        trapped=counts["trapped"],
        stepped=counts["stepped"],
        syscall=counts["syscall"],
        state=site.state if site else None,
        reason=reason,
    )
