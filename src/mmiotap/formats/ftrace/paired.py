"""rwmmio and kvm_mmio events in the ring buffer; what two of them mean together is told in mmiotap.formats.paired."""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np

from mmiotap.formats import paired
from mmiotap.formats.ftrace import pages
from mmiotap.formats.ftrace.events import dtype, gather
from mmiotap.formats.ftrace.fields import Event, Formats
from mmiotap.formats.paired import Told
from mmiotap.trace.errors import MmiotapError

_RWMMIO = {
    "rwmmio_read": paired.BEGIN,
    "rwmmio_post_read": paired.END,
    "rwmmio_write": paired.WRITE,
    "rwmmio_post_write": paired.AFTER,
}
_KVM = "kvm_mmio"
#: Its types: KVM_TRACE_MMIO_READ_UNSATISFIED and so on.
_KVM_STEPS = {0: paired.BEGIN, 1: paired.END, 2: paired.WRITE}
#: By system, as in events/SYSTEM/NAME/format.
SYSTEMS = {"rwmmio": tuple(_RWMMIO), "kvm": (_KVM,)}
NAMES = (*_RWMMIO, _KVM)
_BITS = (8, 16, 32, 64)
_COMMON = ("common_type", "common_pid")


class Reader:
    """Finds these events in pages, where ``formats`` has them.

    Raises MmiotapError if one of them is described without what is needed here.
    """

    def __init__(self, formats: Formats) -> None:
        self._page = formats.page
        self._kinds: list[tuple[Event, np.dtype[Any]]] = []
        for name in NAMES:
            if event := formats.events.get(name):
                fields = ("type", "len", "gpa", "val") if name == _KVM else ("caller", "addr", "width")
                value = ("val",) if name in _RWMMIO and name != "rwmmio_read" else ()
                self._kinds.append((event, dtype(event, (*_COMMON, *fields, *value))))

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def told(self, cpu: int, data: bytes, name: str) -> Iterator[Told]:
        """In the order of the buffer of one CPU. ``data`` is whole pages; ``name`` is what messages call them."""
        records = pages.read(data, self._page, name)
        found: list[tuple[int, Told]] = []
        for event, kind in self._kinds:
            rows = gather(records, event, kind)
            columns = [rows["record"][field].tolist() for field in kind.names or ()]
            for where, *fields in zip(rows["where"].tolist(), *columns, strict=True):
                one = _one(
                    event.name, cpu, int(records.time_ns[where]), dict(zip(kind.names or (), fields, strict=True))
                )
                if one is None:
                    place = records.start[where]
                    raise MmiotapError(f"{name}, byte {place}: a {event.name} of a type or a width that is not known")
                found.append((where, one))
        found.sort(key=itemgetter(0))
        return (one for _, one in found)


def _one(name: str, cpu: int, time_ns: int, record: dict[str, int]) -> Told | None:
    tid = record["common_pid"]
    if name == _KVM:
        step, width = _KVM_STEPS.get(record["type"]), record["len"]
        if step is None or not 0 < width < 256:
            return None
        value = record["val"] if step != paired.BEGIN else None
        return Told(time_ns, step, paired.KVM, record["gpa"], width, value, pid=tid, tid=tid, cpu=cpu)
    if record["width"] not in _BITS:
        return None
    known = record["addr"], record["width"] // 8, record.get("val")
    return Told(time_ns, _RWMMIO[name], paired.RWMMIO, *known, pid=tid, tid=tid, cpu=cpu, pc=record["caller"])
