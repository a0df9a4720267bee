"""What happened: all analyses of a trace in one pass, with names."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.analysis.callers import Callers
from mmiotap.analysis.delays import Delays, Gaps
from mmiotap.analysis.inlined import Frames
from mmiotap.analysis.latency import Latency
from mmiotap.analysis.life import Life
from mmiotap.analysis.modifies import Modifies
from mmiotap.analysis.naming import decoded
from mmiotap.analysis.pairs import Pairs
from mmiotap.analysis.partitions import Analysis, analysed
from mmiotap.analysis.phases import Marks, Phases
from mmiotap.analysis.polls import Polls
from mmiotap.analysis.symbols import Symbols
from mmiotap.analysis.transfers import Transfers
from mmiotap.analysis.unwritten import Unwritten
from mmiotap.registers.decode import Decoder
from mmiotap.trace.reader import Trace


@dataclass(frozen=True)
class Summary:
    """One table an analysis; its columns are those of the class that its comment names, and more.

    Every table with ``map_id, offset, width`` has ``register``, the register's name, and every table with ``pid, pc``
    has ``site``, the function (:meth:`Symbols.names`); null and "" where they are not known.
    """

    phases: pa.Table  #: Phases
    polls: pa.Table  #: Polls; ``ones`` and ``zeros``: fields that it waited for to be set, and to be 0
    modifies: pa.Table  #: Modifies; ``set_fields`` and ``cleared_fields``
    pairs: pa.Table  #: Pairs; ``index_register``
    transfers: pa.Table  #: Transfers
    delays: pa.Table  #: Delays
    gaps: pa.Table  #: Gaps; ``next_register``
    life: pa.Table  #: Life; ``toggled_fields``, ``cleared_fields`` by a read, ``writers``: functions, the busiest first
    latency: pa.Table  #: Latency
    callers: pa.Table  #: Callers; ``frames``: function, file and line of each function inlined there, innermost first
    unwritten: pa.Table  #: Unwritten
    notes: list[str]  #: modules that gave no names, and why


def analyses(marks: Marks, memory: Collection[int] = ()) -> dict[str, Analysis[Any]]:
    """All there are, by the name that their tables have in :class:`Summary`.

    ``memory``: mappings that are memory whatever they look like.
    """
    return {
        "phases": Phases(marks),
        "polls": Polls(),
        "modifies": Modifies(),
        "pairs": Pairs(),
        "transfers": Transfers(),
        "delays": Delays(),
        "gaps": Gaps(),
        "life": Life(),
        "latency": Latency(),
        "callers": Callers(),
        "unwritten": Unwritten(frozenset(memory)),
    }


def summary(trace: Trace, decoder: Decoder | None = None, memory: Collection[int] = ()) -> Summary:
    """Read the trace once, part by part, with memory for what is distinct."""
    wanted = analyses(Marks.of(trace), memory)
    return named(dict(zip(wanted, analysed(trace, list(wanted.values())), strict=True)), trace, decoder)


def named(tables: dict[str, pa.Table], trace: Trace, decoder: Decoder | None) -> Summary:
    """The tables of :func:`analyses`, wherever they were made, with names."""
    symbols = Symbols(trace.modules, trace.processes)
    found = {name: _with_sites(_with_registers(table, decoder), symbols) for name, table in tables.items()}
    polls, modifies, life = found["polls"], found["modifies"], found["life"]
    found["polls"] = _with_conditions(polls, decoder)
    for column in ("set", "cleared"):
        modifies = modifies.append_column(f"{column}_fields", _fields(modifies, "write", modifies[column], decoder))
    found["modifies"] = modifies
    life = life.append_column("toggled_fields", _fields(life, "read", life["toggled"], decoder))
    life = life.append_column("cleared_fields", _fields(life, "read", life["cleared_by_read"], decoder))
    found["life"] = life.append_column("writers", _writers(life, found["callers"]))
    found["pairs"] = _with_registers(found["pairs"], decoder, "index_", "write")
    found["gaps"] = _with_registers(found["gaps"], decoder, "next_")
    found["callers"] = _with_frames(found["callers"], symbols)
    return Summary(**found, notes=symbols.notes)


def named_polls(polls: pa.Table, trace: Trace, decoder: Decoder | None) -> pa.Table:
    """The table of Polls with names."""
    symbols = Symbols(trace.modules, trace.processes)
    return _with_conditions(_with_sites(_with_registers(polls, decoder), symbols), decoder)


def _with_conditions(polls: pa.Table, decoder: Decoder | None) -> pa.Table:
    wanted, zero = polls["value"], pc.bit_wise_and(polls["mask"], pc.bit_wise_not(polls["value"]))
    ones, zeros = (_fields(polls, "read", value, decoder) for value in (wanted, zero))
    return polls.append_column("ones", ones).append_column("zeros", zeros)


def _with_registers(table: pa.Table, decoder: Decoder | None, prefix: str = "", kind: str = "read") -> pa.Table:
    """``prefix``: of the columns that name the place. ``kind``: of access, where the table does not tell."""
    names = table.schema.names
    if f"{prefix}offset" not in names:
        return table
    kinds = table[f"{prefix}kind"] if f"{prefix}kind" in names else kind
    map_id = table[f"{prefix}map_id" if f"{prefix}map_id" in names else "map_id"]
    width = table[f"{prefix}width"] if f"{prefix}width" in names else pa.array([1] * table.num_rows, pa.int64())
    found = decoded(decoder, kinds, map_id, table[f"{prefix}offset"], width)
    return table.append_column(f"{prefix}register", found.register)


def _fields(table: pa.Table, kind: str, value: Any, decoder: Decoder | None) -> Any:
    """The fields of these values that are not zero."""
    return decoded(decoder, kind, table["map_id"], table["offset"], table["width"], value).fields


def _with_sites(table: pa.Table, symbols: Symbols) -> pa.Table:
    if "pc" not in table.schema.names:
        return table
    names = symbols.names(*_code(table))
    return table.append_column("site", pa.array(names, pa.string()))


def _code(table: pa.Table) -> tuple[list[int], list[int]]:
    return table["pid"].to_numpy().tolist(), table["pc"].to_numpy().tolist()


def _with_frames(callers: pa.Table, symbols: Symbols) -> pa.Table:
    frames = Frames(symbols).of(*_code(callers))
    kind = pa.struct([("function", pa.string()), ("file", pa.string()), ("line", pa.int64())])
    return callers.append_column("frames", pa.array([[asdict(one) for one in each] for each in frames], pa.list_(kind)))


def _writers(life: pa.Table, callers: pa.Table) -> Any:
    """The functions that wrote each register."""
    found: dict[tuple[Any, ...], dict[str, None]] = {}
    for row in callers.select(["map_id", "offset", "width", "writes", "site"]).to_pylist():
        if row["writes"]:
            place = (row["map_id"], row["offset"], row["width"])
            found.setdefault(place, {})[_function(row["site"])] = None
    places: Sequence[Any] = list(zip(*(life[name].to_pylist() for name in ("map_id", "offset", "width")), strict=True))
    return pa.array([list(found.get(place, ())) for place in places], pa.list_(pa.string()))


def _function(site: str) -> str:
    """``reset (driver)`` of ``reset+0x12 (driver)``."""
    name, _, module = site.partition(" ")
    return f"{name.rpartition('+')[0]} {module}" if module else site
