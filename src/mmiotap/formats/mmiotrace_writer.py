"""Writing the mmiotrace text log, version 20070824: what an imported log said, line by line as the kernel prints it.

A recording of the agent has what the format cannot say; docs/formats.md lists what becomes of it.
"""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from mmiotap.formats.mmiotrace_lines import VERSION
from mmiotap.formats.pci import PciDevice
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import Trace

_COLUMNS = ["time_ns", "kind", "width", "map_id", "offset", "value", "data", "pc", "pid", "tid", "cpu", "flags", "text"]
_WORD = 8
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_LETTER = {"read": "R", "write": "W"}


def write(tables: Iterator[pa.Table], trace: Trace, out: IO[bytes]) -> None:
    """The header, then the events."""
    lines = _Lines(trace)
    out.write(_header(trace.info).encode())
    for table in tables:
        out.write("".join(lines.of(table)).encode())


def _header(info: dict[str, Any]) -> str:
    original = info.get("mmiotrace")
    lines = [] if original and original["version"] is None else [f"VERSION {VERSION}"]
    lines += [PciDevice.from_json(device).to_line() for device in info.get("pci_devices", [])]
    lines += original["lspci"] if original else []
    return "".join(f"{line}\n" for line in lines)


class _Lines:
    """Turns events into lines; knows where mappings begin."""

    def __init__(self, trace: Trace) -> None:
        self._bases = {mapping.map_id: _base(mapping) for mapping in trace.mappings}
        # The kernel has no thread in its lines (pid is always 0); a log that was imported keeps what it had.
        self._imported = trace.info.get("source") == "mmiotrace"
        self._from_kernel = trace.info.get("source") == "kernel"
        # The kernel rounds what it prints.
        self._round_ns = 500 if self._from_kernel else 0

    def of(self, table: pa.Table) -> Iterator[str]:
        columns = [table[name].to_pylist() for name in _COLUMNS]
        for time_ns, kind, width, map_id, offset, value, data, pc, pid, tid, cpu, flags, text in zip(
            *columns, strict=True
        ):
            micros = (time_ns + self._round_ns) // 1000
            time = f"{micros // 1_000_000}.{micros % 1_000_000:06d}"
            tail = f"{pc:#x} {pid if self._imported else 0 if self._from_kernel else tid}\n"
            if kind in _LETTER:
                physical = (self._bases.get(map_id, 0) + offset) & _ALL_BITS
                if flags & layout.VALUE_UNKNOWN:
                    yield f"UNKNOWN {time} {map_id} {physical:#x} {_opcodes(None)} {tail}"
                elif data is None:
                    yield f"{_LETTER[kind]} {width} {time} {map_id} {physical:#x} {value:#x} {tail}"
                else:
                    for start in range(0, width, _WORD):
                        piece = data[start : start + _WORD]
                        value = int.from_bytes(piece, "little")
                        yield (f"{_LETTER[kind]} {len(piece)} {time} {map_id} {physical + start:#x} {value:#x} {tail}")
            elif kind == "map":
                mapping = Mapping.from_json(json.loads(text))
                self._bases[map_id] = _base(mapping)
                yield f"MAP {time} {map_id} {_base(mapping):#x} {mapping.address:#x} {mapping.length:#x} {tail}"
            elif kind == "unmap":
                yield f"UNMAP {time} {map_id} {tail}"
            elif kind == "mark":
                yield f"MARK {time} {text if self._imported or self._from_kernel else _one_line(text)}\n"
            elif kind == "lost" and cpu >= 0 and (self._imported or self._from_kernel):
                yield f"CPU:{cpu} [LOST {value} EVENTS]\n"
            elif kind == "lost":
                yield f"MARK 0.000000 Lost {value} events.\n"
            elif text is not None:
                yield f"{text}\n"
            else:
                physical = (self._bases.get(map_id, 0) + offset) & _ALL_BITS
                yield f"UNKNOWN {time} {map_id} {physical:#x} {_opcodes(data)} {tail}"


def _base(mapping: Mapping) -> int:
    """The address that a mapping's offsets are added to: the physical one, or where the program sees it."""
    return mapping.address if mapping.physical is None else mapping.physical


def _one_line(text: str) -> str:
    """A program's own mark, unable to look like further lines of the log."""
    return text.replace("\r", r"\r").replace("\n", r"\n")


def _opcodes(data: bytes | None) -> str:
    """The first three bytes of an instruction; zeros where they are not known."""
    return ",".join(f"{byte:02x}" for byte in (data or b"")[:3].ljust(3, b"\0"))
