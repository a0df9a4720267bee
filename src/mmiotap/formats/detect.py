"""The kinds of log that can be imported, and which one a log is: by its content, never by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmiotap.formats import ftrace_text, json_lines, mmiotrace, mmt, qemu
from mmiotap.formats.compressed import Log
from mmiotap.formats.ftrace import importing as ftrace
from mmiotap.formats.ftrace import trace_dat
from mmiotap.formats.importing import Imported, Importer, make_trace
from mmiotap.trace.errors import MmiotapError

#: Bytes of a log that are looked at: enough for the header of any, and some events.
_HEAD = 256 << 10


@dataclass(frozen=True)
class Kind:
    """A kind of log.

    :ivar what: in a few words.
    :ivar recognises: whether a log that begins so is of this kind.
    :ivar importer: how it is read, given where fields are (which JSON lines alone have).
    """

    what: str
    recognises: Callable[[bytes], bool]
    importer: Callable[[Mapping[str, str]], Importer]


def _always(importer: Importer) -> Callable[[Mapping[str, str]], Importer]:
    return lambda mapped: importer


#: By the name that ``--from`` knows and trace.json has as `source`, in the order in which they are tried.
KINDS: dict[str, Kind] = {
    "trace.dat": Kind("trace-cmd's trace.dat", trace_dat.recognises, _always(trace_dat.load)),
    "jsonl": Kind("JSON objects, one a line", json_lines.recognises, json_lines.importer),
    "ftrace-text": Kind("rwmmio and kvm_mmio events as text", ftrace_text.recognises, _always(ftrace_text.load)),
    "qemu": Kind("QEMU's trace events of memory regions", qemu.recognises, _always(qemu.load)),
    "mmiotrace": Kind("the text log of the kernel's mmiotrace", mmiotrace.recognises, _always(mmiotrace.load)),
    "mmt": Kind("valgrind-mmt's binary log", mmt.recognises, _always(mmt.load)),
}


def import_log(
    raw: BinaryIO,
    name: str,
    path: Path,
    *,
    kind: str | None = None,
    mapped: Mapping[str, str] | None = None,
    force: bool = False,
) -> tuple[str, Imported]:
    """Make the trace ``path`` of a log of any kind; ``name`` is what messages call it. Returns the kind, too.

    :param kind: of :data:`KINDS`; None: as the content says.
    :param mapped: fields of JSON lines, see :func:`mmiotap.formats.json_lines.importer`.
    :raises MmiotapError: it is of no kind, or what :func:`mmiotap.formats.importing.make_trace` raises.
    """
    log = Log(raw, name)
    kind = kind or _kind(log)
    if mapped and kind != "jsonl":
        raise MmiotapError(f"{name}: --map-field is for JSON lines, and this is {KINDS[kind].what}")
    importer = KINDS[kind].importer(mapped or {})
    return kind, make_trace(name, path, kind, lambda writer: importer(log, writer), force=force)


def import_folder(folder: Path, path: Path, *, force: bool = False) -> Imported:
    """Make the trace ``path`` of raw pages of ftrace's: :func:`mmiotap.formats.ftrace.importing.load_folder`."""
    return make_trace(str(folder), path, "ftrace-raw", lambda writer: ftrace.load_folder(folder, writer), force=force)


def _kind(log: Log) -> str:
    head = log.head(_HEAD)
    for name, kind in KINDS.items():
        if kind.recognises(head):
            return name
    raise MmiotapError(
        f"{log.name}: no kind of log that is known (it begins with {head[:40].decode(errors='backslashreplace')!r}); "
        f"if it is one, say which: --from {', '.join(KINDS)}"
    )
