"""The kernel's rwmmio and kvm_mmio events as text, as ``trace``, ``trace_pipe``, trace-cmd and perf script print them.

One access is two events (:mod:`mmiotap.formats.paired`). Other events are passed over.
"""

import re
from dataclasses import dataclass

from mmiotap.formats import paired
from mmiotap.formats.compressed import Log
from mmiotap.formats.importing import Ending, Lines, Rows, Writer
from mmiotap.formats.paired import Pairs, Told
from mmiotap.trace import layout
from mmiotap.trace.errors import MmiotapError

#: What events tell of, and kvm_mmio's words.
_STEPS = {
    b"rwmmio_read": paired.BEGIN,
    b"rwmmio_post_read": paired.END,
    b"rwmmio_write": paired.WRITE,
    b"rwmmio_post_write": paired.AFTER,
    b"unsatisfied-read": paired.BEGIN,
    b"read": paired.END,
    b"write": paired.WRITE,
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


def load(log: Log, writer: Writer) -> Ending:
    """The importer (:mod:`mmiotap.formats.importing`)."""
    reader = _Reader(log.name, Rows(writer))
    lines, cut = Lines(log, _WANTED), None
    for number, line, whole in lines:
        if not reader.take(line, number, must=whole):
            cut = line[:200].decode(errors="backslashreplace")
    if not reader.seen:
        raise MmiotapError(f"{log.name}: no rwmmio or kvm_mmio event is in it ({lines.count} lines were read)")
    reader.pairs.end()
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
    _time_ns: int = 0
    _overwritten: int = 0

    def __post_init__(self) -> None:
        self.pairs = Pairs(self.rows)

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
        step = _STEPS[found["what"] if is_kvm else head["event"]]
        if step in (paired.END, paired.WRITE) and found["value"] is None:
            return False
        width = int(found["width"]) if is_kvm else int(found["bits"]) // 8
        if not 0 < width < 256:
            return False
        pid = int(head["pid"] or 0)
        if head["tgid"] is not None and head["tgid"].isdigit():
            pid = int(head["tgid"])
        fraction = head["fraction"]
        time_ns = int(head["seconds"]) * 10**9 + int(fraction) * (1000 if len(fraction) == 6 else 1)
        self._time_ns = time_ns
        if self._overwritten:
            why = "overwritten before the log was read"
            self.rows.add(layout.LOST, time_ns, value=self._overwritten, text=why)
            self._overwritten = 0
        text = None if is_kvm else found["caller"].decode(errors="backslashreplace") or None
        self.pairs.take(
            Told(
                time_ns,
                step,
                paired.KVM if is_kvm else paired.RWMMIO,
                int(found["address"], 16),
                width,
                None if found["value"] is None else int(found["value"], 16),
                pid=pid,
                tid=int(head["tid"]),
                cpu=int(head["cpu"]),
                text=text,
            )
        )
        return True
