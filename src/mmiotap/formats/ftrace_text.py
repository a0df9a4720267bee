"""The kernel's rwmmio and kvm_mmio events as text, as ``trace``, ``trace_pipe``, trace-cmd and perf script print them.

One access is two events: before and after (include/trace/events/rwmmio.h), or asked and answered
(include/trace/events/kvm.h). It becomes one row, at the time of the first, with the value of the second and the time
between them. Other events are passed over.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import NOT_SAID, Ending, Lines, Rows, Writer
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping

#: Events that are accesses, with the letter that says what they are: (b)egin or (e)nd of a read, (w)rite or (a)fter it.
_LETTERS = {
    b"rwmmio_read": "b",
    b"rwmmio_post_read": "e",
    b"rwmmio_write": "w",
    b"rwmmio_post_write": "a",
    b"unsatisfied-read": "b",
    b"read": "e",
    b"write": "w",
}
_INTERESTING = re.compile(rb"[ :](?:kvm_mmio|rwmmio_(?:post_)?(?:read|write)):")
#: What lines have that are looked at: those events, and losses.
_WANTED = re.compile(_INTERESTING.pattern + rb"| EVENTS|PERF_RECORD_LOST|# entries-in-buffer")
# Every part has a greatest length, so that no line takes long, whatever it is.
_HEAD = re.compile(
    rb"[ \t]{0,80}(?P<comm>[^\t]{0,64}?)(?:-|[ \t]{1,80}(?:(?P<pid>\d{1,9})/[ \t]{0,20})?)(?P<tid>-?\d{1,9})[ \t]{1,40}"
    rb"(?:\([ \t]{0,20}(?P<tgid>\d{1,9}|-{1,9})\)[ \t]{1,40})?"
    rb"\[(?P<cpu>\d{1,4})\][ \t]{1,40}(?:[^ \t]{3,12}[ \t]{1,40})?"
    rb"(?P<seconds>\d{1,9})\.(?P<fraction>\d{6}|\d{9}):[ \t]{1,40}(?:\d{1,19}[ \t]{1,40})?(?:[a-z]{1,16}:)?"
    rb"(?P<event>kvm_mmio|rwmmio_(?:post_)?(?:read|write)):[ \t]{0,40}(?P<rest>.*)"
)
_KVM = re.compile(
    rb"mmio (?P<what>unsatisfied-read|read|write) len (?P<width>\d{1,3}) gpa 0x(?P<address>[0-9a-f]{1,16}) "
    rb"val 0x(?P<value>[0-9a-f]{1,16})[ \t]{0,40}"
)
_RW = re.compile(
    rb"(?P<caller>.{0,1000}?) ?\bwidth=(?P<bits>8|16|32|64) (?:val=(?:0x)?(?P<value>[0-9a-f]{1,16}) )?"
    rb"addr=(?:0x)?(?P<address>[0-9a-f]{1,16})[ \t]{0,40}"
)
_LOST = re.compile(
    rb"(?:CPU:(?P<cpu>\d{1,4}) )?\[(?:LOST )?(?P<lost>\d{1,18}) EVENTS(?: DROPPED)?\]|"
    rb".{1,200} PERF_RECORD_LOST lost (?P<perf>\d{1,18})"
)
_OVERWRITTEN = re.compile(rb"# entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})[ \t].*")
#: Reads that have begun and not ended. More than these never will: their ends were lost, or are not traced.
_MOST_BEGUN = 4096

#: Paths of the mappings that stand for whole address spaces: offsets are addresses.
_SPACES = {"kvm": "kvm:guest-physical", "rwmmio": "kernel:virtual"}
_Key = tuple[str, int, int, int]


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`)."""
    reader = _Reader(log.name, Rows(writer))
    lines, cut = Lines(log, _WANTED), None
    for number, line, whole in lines:
        if not reader.take(line, number, must=whole):
            cut = line[:200].decode(errors="backslashreplace")
    if not reader.seen:
        raise MmiotapError(f"{log.name}: no rwmmio or kvm_mmio event is in it ({lines.count} lines were read)")
    reader.end()
    info = {"passed_over": lines.passed_over + reader.passed_over}
    return Ending(lines.count, cut, f"line {lines.count}: the last line", info=info)


def recognises(head: bytes) -> bool:
    """Whether one of these lines is such an event."""
    return any(_INTERESTING.search(line) and _HEAD.fullmatch(line) for line in head.splitlines())


@dataclass
class _Reader:
    name: str
    rows: Rows
    passed_over: int = 0
    seen: bool = False
    _maps: dict[str, int] = field(default_factory=dict)
    _time_ns: int = 0
    _overwritten: int = 0
    #: Reads that have begun, and writes whose other event may follow, by space, thread, address and width.
    _begun: dict[_Key, dict[str, Any]] = field(default_factory=dict)
    _written: dict[_Key, None] = field(default_factory=dict)

    def take(self, line: bytes, number: int, *, must: bool) -> bool:
        """One line. False: it is cut short, which only one that need not be whole may be."""
        if _INTERESTING.search(line) is None:
            self._take_other(line)
            return True
        head = _HEAD.fullmatch(line)
        if head is not None and self._event(head):
            self.seen = True
            return True
        if not must and self.seen:
            return False
        shown = line.strip()[:80].decode(errors="backslashreplace")
        raise MmiotapError(
            f"{self.name}, line {number}: {shown!r} is not TASK-PID [CPU] FLAGS SECONDS: EVENT: … as the "
            "kernel, trace-cmd or perf script print it; to import the lines before it, cut the log there"
        )

    def _take_other(self, line: bytes) -> None:
        if found := _LOST.fullmatch(line.strip()):
            cpu = int(found["cpu"]) if found["cpu"] else -1
            self.rows.add(layout.LOST, self._time_ns, value=int(found["lost"] or found["perf"]), cpu=cpu)
        elif found := _OVERWRITTEN.fullmatch(line):
            self._overwritten = max(int(found[2]) - int(found[1]), 0)
        else:
            self.passed_over += not line.startswith(b"#")

    def _event(self, head: re.Match[bytes]) -> bool:
        is_kvm = head["event"] == b"kvm_mmio"
        found = (_KVM if is_kvm else _RW).fullmatch(head["rest"])
        if found is None:
            return False
        letter = _LETTERS[found["what"] if is_kvm else head["event"]]
        if letter in "ew" and found["value"] is None:
            return False
        width = int(found["width"]) if is_kvm else int(found["bits"]) // 8
        if not 0 < width < 256:
            return False
        tid = int(head["tid"])
        pid = int(head["pid"] or 0)
        if head["tgid"] is not None and head["tgid"].isdigit():
            pid = int(head["tgid"])
        fraction = head["fraction"]
        time_ns = int(head["seconds"]) * 10**9 + int(fraction) * (1000 if len(fraction) == 6 else 1)
        self._time_ns = time_ns
        if self._overwritten:
            text = "overwritten before the log was read"
            self.rows.add(layout.LOST, time_ns, value=self._overwritten, text=text)
            self._overwritten = 0
        space = "kvm" if is_kvm else "rwmmio"
        address = int(found["address"], 16)
        key = (space, tid, address, width)
        row: dict[str, Any] = {
            "time_ns": time_ns,
            "width": width,
            "map_id": self._maps.setdefault(space, len(self._maps) + 1),
            "offset": address,
            # Of accesses wider than 8 bytes kvm_mmio prints the low half.
            "flags": NOT_SAID if width > 8 else 0,
            "pid": pid,
            "tid": tid,
            "cpu": int(head["cpu"]),
            "text": None if is_kvm else found["caller"].decode(errors="backslashreplace") or None,
        }
        value = int(found["value"] or b"0", 16)
        if letter == "b":
            self._give_up(key)
            self._begun[key] = row
            if len(self._begun) > _MOST_BEGUN:
                self._give_up(next(iter(self._begun)))
        elif letter == "e":
            if begun := self._begun.pop(key, None):
                duration = time_ns - begun["time_ns"]
                row = begun | ({"duration_ns": duration} if 0 <= duration < layout.NO_DURATION else {})
            self._add(layout.READ, row, value)
        elif letter == "w":
            self._add(layout.WRITE, row, value)
            self._written[key] = None
            if len(self._written) > _MOST_BEGUN:
                self._written.pop(next(iter(self._written)))
        elif key in self._written:
            del self._written[key]
        elif found["value"] is not None:
            self._add(layout.WRITE, row, value)
        return True

    def _give_up(self, key: _Key) -> None:
        """A read that does not end any more: it was made, but its value is not known."""
        if begun := self._begun.pop(key, None):
            self._add(layout.READ, begun | {"flags": NOT_SAID}, 0)

    def _add(self, kind: int, row: dict[str, Any], value: int) -> None:
        self.rows.add(kind, value=value, **row)

    def end(self) -> None:
        for key in list(self._begun):
            self._give_up(key)
        for space, map_id in self._maps.items():
            self.rows.add_mapping(Mapping(map_id, 0, _SPACES[space], address=0, length=0, file_offset=0, prot="rw"))
        self.rows.flush()
