"""Which events: filters as a user writes them, made into one pyarrow expression that storage can push down."""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from mmiotap.trace.errors import UsageError
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import glob_matches
from mmiotap.trace.schema import KINDS

#: Kinds that have an offset of an access in them.
ACCESSES = ("read", "write", "unknown")

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}


class FilterError(UsageError):
    """A filter that makes no sense; the text names it and says what would."""


def expression(
    mappings: Sequence[Mapping],
    start_ns: int,
    *,
    kind: str | None = None,
    maps: Sequence[str] = (),
    offset: str | None = None,
    tids: Sequence[int] = (),
    time: str | None = None,
    sources: Sequence[str] = (),
    known_sources: Sequence[str] = (),
) -> pc.Expression | None:
    """All filters at once, or None for every event. Raises FilterError.

    ``kind`` is words with commas between, ``maps`` ids or globs, ``offset`` a first and last offset of where an access
    begins, ``time`` a first and last time since ``start_ns``, in seconds if it has no unit, ``sources`` names of
    :data:`known_sources`, those of a merged trace.
    """
    parts: list[pc.Expression] = []
    if kind is not None:
        parts.append(pc.field("kind").isin(_kinds(kind)))
    if maps:
        parts.append(map_expression(maps, mappings))
    if offset is not None:
        parts.append(pc.field("kind").isin(list(ACCESSES)))
        parts.append(_between("offset", _ends("--offset", offset, _offset, single=True), pa.uint64()))
    if tids:
        parts.append(pc.field("tid").isin(pa.array([tid for tid in tids if 0 <= tid < 2**31], pa.int32())))
    for source in sources:
        if source not in known_sources:
            there = f"there are {', '.join(known_sources)}" if known_sources else "only a merged trace has some"
            raise FilterError(f"--source: the trace has no source {source!r}; {there}")
    if sources:
        parts.append(pc.field("source").isin(list(sources)))
    if time is not None:
        low, high = _ends("--time", time, _nanoseconds, single=False)
        shifted = (None if low is None else start_ns + low, None if high is None else start_ns + high)
        parts.append(_between("time_ns", shifted, pa.int64()))
    return functools.reduce(operator.and_, parts) if parts else None


def offsets(text: str) -> tuple[int, int]:
    """The first and the last offset of ``A..B``. Raises FilterError."""
    low, high = _ends("--offset", text, _offset, single=True)
    return low or 0, 2**64 - 1 if high is None else high


def map_expression(maps: Sequence[str], mappings: Sequence[Mapping], option: str = "--map") -> pc.Expression:
    """Events of these mappings, ids or globs. Raises FilterError, which names the option."""
    return pc.field("map_id").isin(pa.array(map_ids(maps, mappings, option), pa.int32()))


def map_ids(patterns: Sequence[str], mappings: Sequence[Mapping], option: str) -> list[int]:
    """The ids that these ids and globs mean. Raises FilterError, which names the option."""
    ids: list[int] = []
    for pattern in patterns:
        if pattern.isdecimal():
            found = [mapping.map_id for mapping in mappings if mapping.map_id == int(pattern)]
        else:
            found = [mapping.map_id for mapping in mappings if glob_matches(pattern, mapping)]
        if not found:
            known = sorted({mapping.path for mapping in mappings})
            there = (
                f"the trace has {', '.join(known[:5])}{' …' if len(known) > 5 else ''}" if known else "there is none"
            )
            raise FilterError(f"{option}: no mapping is {pattern!r}; {there}")
        ids += found
    return ids


def duration_ns(option: str, text: str) -> int:
    """A time with or without a sign, in nanoseconds. Raises FilterError, which names the option."""
    sign = -1 if text.strip().startswith("-") else 1
    time = _nanoseconds(text.strip().lstrip("+-") if text.strip()[:1] in "+-" else text)
    if time is None:
        raise FilterError(f"{option}: cannot make sense of {text!r}; write seconds, or a number with s, ms, us or ns")
    return sign * time


def limited(tables: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """The first ``limit`` rows; asks for no table after the one that completes them."""
    left = limit
    if left == 0:
        return
    for table in tables:
        if left is None:
            yield table
            continue
        yield table.slice(0, left)
        left -= table.num_rows
        if left <= 0:
            return


def _kinds(words: str) -> list[str]:
    kinds = [word.strip() for word in words.split(",")]
    for kind in kinds:
        if kind not in KINDS.values():
            raise FilterError(f"--kind: {kind!r} is no kind of event; kinds are {', '.join(KINDS.values())}")
    return kinds


def _ends(option: str, text: str, parse: Callable[[str], int | None], *, single: bool) -> tuple[int | None, int | None]:
    """Both ends of ``A..B``; None for one that is left out."""
    first, dots, last = (word.strip() for word in text.partition(".."))
    if not dots and single:
        last = first
    low, high = parse(first), parse(last)
    bad = (first and low is None) or (last and high is None) or (low is None and high is None)
    if bad or not (dots or single):
        raise FilterError(f"{option}: cannot make sense of {text!r}; write {'A..B or A' if single else 'A..B'}")
    if low is not None and high is not None and low > high:
        raise FilterError(f"{option}: {text!r} ends before it begins")
    return low, high


def _offset(text: str) -> int | None:
    word = text.strip().lower()
    if not re.fullmatch(r"0x[0-9a-f]+|[0-9]+", word):
        return None
    number = int(word, 16 if word.startswith("0x") else 10)
    return number if number < 2**64 else None


def _nanoseconds(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(s|ms|us|µs|ns)?", text.strip())
    if match is None:
        return None
    time = int(Decimal(match[1]) * UNITS[match[2] or "s"])
    return time if time < 2**62 else None


def _between(column: str, ends: tuple[int | None, int | None], kind: pa.DataType) -> pc.Expression:
    low, high = ends
    parts = []
    if low is not None:
        parts.append(pc.field(column) >= pa.scalar(low, kind))
    if high is not None:
        parts.append(pc.field(column) <= pa.scalar(high, kind))
    return functools.reduce(operator.and_, parts)
