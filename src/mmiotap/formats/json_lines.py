"""Events as JSON objects, one a line: what `mmiotap export --format jsonl` writes, and others, by a mapping of fields.

A file that is an array with one object a line (PANDA's mmio_trace) is read, too.
"""

import json
import re
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import NOT_SAID, Ending, Importer, Lines, Rows, Writer
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import KINDS

#: What can be told of an event, and where it is looked for: the first of these fields that is there.
FIELDS: dict[str, tuple[str, ...]] = {
    "kind": ("kind", "type", "operation", "op", "access", "rw", "is_write"),
    "time_ns": ("time_ns",),
    "time_us": ("time_us",),
    "time_ms": ("time_ms",),
    "time_s": ("time_s",),
    "width": ("width", "size", "length"),
    "map_id": ("map_id",),
    "mapping": ("mapping", "device", "region", "name"),
    "offset": ("offset",),
    "address": ("address", "addr", "phys_addr", "gpa"),
    "base": ("base",),
    "value": ("value", "val"),
    "data": ("data",),
    "pc": ("pc", "guest_pc", "from"),
    "pid": ("pid",),
    "tid": ("tid", "thread_id", "threadId", "thread"),
    "cpu": ("cpu",),
    "duration_ns": ("duration_ns",),
    "flags": ("flags",),
    "text": ("text",),
}
_READS = frozenset(("read", "r", "load", "ld", "false"))
_WRITES = frozenset(("write", "w", "store", "st", "true"))
#: Accesses of another sort, which are passed over.
_OTHERS = frozenset(("execute", "exec", "x", "fetch"))
_KINDS = (
    {word: kind for kind, word in KINDS.items()}
    | dict.fromkeys(_READS, layout.READ)
    | dict.fromkeys(_WRITES, layout.WRITE)
)
_TIMES = {"time_ns": 1, "time_us": 1_000, "time_ms": 1_000_000, "time_s": 1_000_000_000}
#: Least and greatest of each number.
_LIMITS = {
    "width": (0, 2**16 - 1), "map_id": (-(2**31), 2**31 - 1), "offset": (0, 2**64 - 1), "address": (0, 2**64 - 1),
    "base": (0, 2**64 - 1), "value": (0, 2**64 - 1), "pc": (0, 2**64 - 1), "pid": (-(2**31), 2**31 - 1),
    "tid": (-(2**31), 2**31 - 1), "cpu": (-(2**15), 2**15 - 1), "duration_ns": (0, layout.NO_DURATION - 1),
    "flags": (0, 2**32 - 1),
}  # fmt: skip
_LAST_NS = 2**63 - 1
#: What lines have that are more than an array's own brackets and commas, or have more of these than it can.
_TELLING = re.compile(rb"[^\s\[\],]|\[[ \t]*+\[|\][ \t]*+[\[\]]|,[ \t]*+[\[\],]")
_LONGEST_NAME = 4096
_MOST_MAPPINGS = 65536
_UNNAMED = "addresses"


def importer(mapped: AnyMapping[str, str]) -> Importer:
    """The importer (:mod:`mmiotap.formats.importing`) that finds some of :data:`FIELDS` where ``mapped`` says.

    A field within an object is given as ``outer.inner``. Raises MmiotapError for a name that is none of FIELDS.
    """
    for name in mapped:
        if name not in FIELDS:
            raise MmiotapError(f"--map-field {name}: there is no such column; there are {', '.join(FIELDS)}")
    paths = {name: [tuple(one.split(".")) for one in usual] for name, usual in FIELDS.items()}
    paths |= {name: [tuple(path.split("."))] for name, path in mapped.items()}
    return partial(_load, paths)


def recognises(head: bytes) -> bool:
    """Whether the first lines are objects with a kind that is an access's."""
    for line in head.splitlines()[:8]:
        if text := _text(line):
            try:
                found = _object(text)
            except ValueError:
                return False
            return any(name in found for name in FIELDS["kind"])
    return False


def _text(line: bytes) -> bytes:
    """The object of a line: without what an array has around it."""
    return line.strip().removeprefix(b"[").removesuffix(b"]").strip().removesuffix(b",").strip()


def _object(text: bytes) -> dict[str, Any]:
    """Raises ValueError if it is none."""
    try:
        found = json.loads(text.decode(), parse_float=Decimal)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except InvalidOperation:
        raise ValueError("it has a number with an exponent that is none") from None
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def _load(paths: AnyMapping[str, list[tuple[str, ...]]], log: Log, writer: Writer) -> Ending:
    reader = _Reader(Rows(writer), paths)
    lines, cut = Lines(log, _TELLING), None
    for number, line, whole in lines:
        if not (text := _text(line)):
            continue
        try:
            reader.take(_object(text))
        except ValueError as error:
            shown = line.strip()[:80].decode(errors="backslashreplace")
            if not whole and reader.rows.any:
                cut = shown
                break
            why = " ".join(str(error).split())[:200]
            raise MmiotapError(f"{log.name}, line {number}: {shown!r}: {why}") from error
    if not reader.rows.any:
        raise MmiotapError(f"{log.name}: no event is in it ({lines.count} lines were read)")
    reader.rows.flush()
    return Ending(lines.count, cut, f"line {lines.count}: the last line", info={"passed_over": reader.passed_over})


@dataclass
class _Reader:
    rows: Rows
    paths: AnyMapping[str, list[tuple[str, ...]]]
    passed_over: int = 0
    _maps: dict[str, int] = field(default_factory=dict)
    _given: set[int] = field(default_factory=set)

    def take(self, found: dict[str, Any]) -> None:
        """One event. Raises ValueError, naming the field, if it cannot be understood."""
        if (word := self._look(found, "kind")) is None:
            raise ValueError(
                f"no field of {self._names('kind')} says if it is a read or a write; name it: --map-field kind=FIELD"
            )
        word = str(word).lower()
        if word in _OTHERS:
            self.passed_over += 1
            return
        if (kind := _KINDS.get(word)) is None:
            raise ValueError(
                f"{word[:40]!r} is neither a read nor a write; name the field that tells: --map-field kind=FIELD"
            )
        told = {name: value for name in self.paths if (value := self._look(found, name)) is not None}
        number = {name: _within(name, _number(name, told[name])) for name in _LIMITS if name in told}
        text = self._string("text", told)
        data = bytes.fromhex(self._string("data", told) or "") or None
        is_access = kind in (layout.READ, layout.WRITE)
        flags = number.get("flags", NOT_SAID if is_access and "value" not in number and data is None else 0)
        offset = number.get("offset")
        if offset is None:
            offset = (number.get("address", 0) - number.get("base", 0)) % 2**64
        value = number.get("value", int.from_bytes(data[:8], "little") if data and is_access else 0)
        if kind == layout.MAP and text:
            self._mapped(text)
        self.rows.add(
            kind,
            self._time(told),
            width=number.get("width", 0),
            map_id=self._map_id(number, told, is_access),
            offset=offset,
            value=value,
            data=data,
            pc=number.get("pc", 0),
            pid=number.get("pid", 0),
            tid=number.get("tid", 0),
            cpu=number.get("cpu", -1),
            flags=flags,
            duration_ns=number.get("duration_ns"),
            text=text,
        )

    def _look(self, found: dict[str, Any], name: str) -> Any:
        for path in self.paths[name]:
            value: Any = found.get(path[0])
            for step in path[1:]:
                value = value.get(step) if isinstance(value, dict) else None
            if value is not None:
                return value
        return None

    def _names(self, name: str) -> str:
        return ", ".join(".".join(path) for path in self.paths[name])

    def _string(self, name: str, told: dict[str, Any]) -> str | None:
        value = told.get(name)
        if value is None or isinstance(value, str):
            # Halves of surrogate pairs can stand in JSON, and nowhere else.
            return value and value.encode(errors="backslashreplace").decode()
        raise ValueError(f"{name} is no text")

    def _time(self, told: dict[str, Any]) -> int:
        for name, factor in _TIMES.items():
            if name in told:
                value = told[name]
                number = value if isinstance(value, Decimal) else _number(name, value)
                # Checked before it is multiplied out: an exponent can be anything.
                if isinstance(number, Decimal) and not (number.is_finite() and number.adjusted() < 20):
                    raise ValueError(f"{name} is no time")
                time_ns = int(number * factor)
                if not -_LAST_NS <= time_ns <= _LAST_NS:
                    raise ValueError(f"{name} is no time")
                return time_ns
        return 0

    def _map_id(self, number: dict[str, int], told: dict[str, Any], is_access: bool) -> int:
        if "map_id" in number:
            return number["map_id"]
        name = self._string("mapping", told)
        if name is None and not is_access:
            return 0
        name = (name or _UNNAMED)[:_LONGEST_NAME]
        if name not in self._maps:
            if len(self._maps) >= _MOST_MAPPINGS:
                raise ValueError(
                    f"more than {_MOST_MAPPINGS} mappings; name the field that tells them: --map-field mapping=FIELD"
                )
            self._maps[name] = len(self._maps) + 1
            base = number.get("base", 0)
            self.rows.add_mapping(Mapping(self._maps[name], 0, name, address=base, length=0, file_offset=0, prot="rw"))
        return self._maps[name]

    def _mapped(self, text: str) -> None:
        """A mapping, as our own map events tell it."""
        try:
            mapping = Mapping.from_json(json.loads(text))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return
        kinds = {"map_id": int, "pid": int, "path": str, "address": int, "length": int, "file_offset": int, "prot": str}
        others = (mapping.device, str), (mapping.bar, int), (mapping.physical, int), (mapping.time_ns, int)
        if all(type(getattr(mapping, name)) is kind for name, kind in kinds.items()) and all(
            value is None or type(value) is kind for value, kind in others
        ):
            self.rows.add_mapping(mapping)


def _number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError(f"{name} is no number")
    if isinstance(value, Decimal):
        if not (value.is_finite() and value.adjusted() < 20 and value == int(value)):
            raise ValueError(f"{name} is no whole number")
        return int(value)
    if isinstance(value, str):
        try:
            return int(value[:40], 0) if value[:2].lower() == "0x" else int(value[:40])
        except ValueError:
            raise ValueError(f"{name} is no number: {value[:40]!r}") from None
    return value


def _within(name: str, number: int) -> int:
    least, most = _LIMITS[name]
    if not least <= number <= most:
        raise ValueError(f"{name} is {number if abs(number) < 2**70 else 'a number'} and so beyond {least} to {most}")
    return number
