"""The arena: shared memory that traced threads write their rows to (docs/trace-format.md).

Light: numpy is imported when rows are read. Single words are read and written through memoryviews of their own type,
which are one load or store each; on x86-64 these are seen by others in program order, as the protocol needs.
"""

import errno
import mmap
import os
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mmiotap.trace import layout, store
from mmiotap.trace.errors import DiskError, MmiotapError

if TYPE_CHECKING:
    from mmiotap.trace.rows import Rows

ON_FULL = ("wait", "drop")
#: How code that runs is changed.
PROTOCOLS = ("breakpoint", "stop-machine")
#: The four ways of an access on several processors, as the header numbers them (docs/smp.md).
SMP_WAYS = ("emulate", "step", "lock", "private")

#: Row, and pid, tid and lost_after of a segment header.
_ROW = struct.Struct("<qQQQIiIHhBBH12x")
#: madvise(2), linux/mman.h; Python has no name for it.
_MADV_POPULATE_WRITE = 23
_OWNER = struct.Struct("<ii12xQ")
#: The most bytes that can follow a row.
_MAX_EXTRA = 255 * layout.ROW_SIZE


@dataclass(frozen=True)
class SegmentHeader:
    """Who writes, or wrote, a segment, and how far. Stream and base together name a tenancy: they never come again."""

    index: int
    stream_id: int
    base_seq: int
    pid: int
    tid: int
    published: int
    lost_after: int

    @property
    def end_seq(self) -> int:
        """Sequence number behind the last published row."""
        return self.base_seq + self.published


@dataclass(frozen=True)
class Chunk:
    """Published rows of one segment, from sequence number ``first_seq`` of a stream on."""

    header: SegmentHeader
    first_seq: int
    rows: "Rows"

    @property
    def end_seq(self) -> int:
        return self.first_seq + len(self.rows)

    def since(self, seq: int) -> "Chunk":
        """Without the rows below a sequence number."""
        skip = min(max(seq - self.first_seq, 0), len(self.rows))
        return Chunk(self.header, self.first_seq + skip, self.rows[skip:])


class Arena:
    """An arena file, mapped. The recorder has it writable; readers have a view."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self._lock = threading.Lock()  # the recorder grows the arena in two of its threads
        self._warm = 0
        with store.writing(path):
            self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                size = os.fstat(self._fd).st_size
                head = os.pread(self._fd, 16, 0)
                if size < layout.SEGMENTS_OFFSET or head[:8] != layout.MAGIC:
                    raise MmiotapError(f"{path} is damaged; remove {path.parent} to keep what is in parts")
                if int.from_bytes(head[layout.H_VERSION : layout.H_VERSION + 4], "little") != layout.VERSION:
                    raise MmiotapError(f"{path} was made by another version of mmiotap; use that one to read it")
                self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                view = memoryview(mmap.mmap(self._fd, layout.SEGMENTS_OFFSET, access=self._access))
            except BaseException:
                os.close(self._fd)
                del self._fd  # or else it would be closed once more, when it is somebody else's
                raise
        self._u32, self._u64 = view.cast("I"), view.cast("Q")
        self._head = view
        self._data = memoryview(b"")
        self._map_segments()

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._fd)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        segments: int,
        rules: list[str],
        on_full: str,
        latency: bool,
        enabled: bool,
        recorder_pid: int,
        recorder_start: int,
        patch: int = 0,
        protocol: str = "breakpoint",
        smp: str = "emulate",
    ) -> Self:
        """A new arena. Its room is taken from the disk now, so that a full disk cannot harm the traced program later.

        ``patch`` is how many accesses of a site trap before it is patched; 0: none is.
        Raises DiskError if there is no room, or the file system cannot reserve it; MmiotapError if the rules are too
        long.
        """
        globs = b"".join(rule.encode("utf-8", "surrogateescape") + b"\0" for rule in rules if rule)
        if len(globs) >= layout.RULES_SIZE:
            raise MmiotapError(f"the rules are too long together; there is room for {layout.RULES_SIZE - 1} bytes")
        head = bytearray(layout.STATES_OFFSET)
        head[: len(layout.MAGIC)] = layout.MAGIC
        for offset, value in {
            layout.H_VERSION: layout.VERSION,
            layout.H_SEGMENT_COUNT: segments,
            layout.H_ENABLED: int(enabled),
            layout.H_ON_FULL: ON_FULL.index(on_full),
            layout.H_LATENCY: int(latency),
            layout.H_RECORDER_PID: recorder_pid,
            layout.H_NEXT_MAP_ID: 1,
            layout.H_NEXT_STREAM_ID: 1,
            layout.H_PATCH: patch,
            layout.H_PROTOCOL: PROTOCOLS.index(protocol),
            layout.H_SMP: SMP_WAYS.index(smp),
        }.items():
            struct.pack_into("<I", head, offset, value)
        struct.pack_into("<Q", head, layout.H_RECORDER_START, recorder_start)
        head[layout.RULES_OFFSET : layout.RULES_OFFSET + len(globs)] = globs
        with store.writing(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        with store.new_file(path) as file:
            _reserve(file.fileno(), segments, path)
            file.write(head)
            # What the program takes first is to be in memory: written pages cost it less than touched ones.
            file.seek(layout.SEGMENTS_OFFSET)
            file.write(bytes(min(segments, layout.SEGMENTS_AT_HAND) * layout.SEGMENT_SIZE))
        return cls(path, writable=True)

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """Raises DiskError (with FileNotFoundError's errno) if it is gone, MmiotapError if it is none of ours."""
        return cls(path, writable=writable)

    # Header

    def _word(self, offset: int) -> int:
        return self._u32[offset // 4]

    def _set_word(self, offset: int, value: int) -> None:
        self._u32[offset // 4] = value

    @property
    def segment_count(self) -> int:
        return self._word(layout.H_SEGMENT_COUNT)

    @property
    def enabled(self) -> bool:
        return self._word(layout.H_ENABLED) != 0

    @enabled.setter
    def enabled(self, value: bool) -> None:
        """A futex word: the caller wakes who waits."""
        self._set_word(layout.H_ENABLED, int(value))

    @property
    def on_full(self) -> str:
        return ON_FULL[self._word(layout.H_ON_FULL)]

    @on_full.setter
    def on_full(self, value: str) -> None:
        self._set_word(layout.H_ON_FULL, ON_FULL.index(value))

    @property
    def latency(self) -> bool:
        return self._word(layout.H_LATENCY) != 0

    @property
    def patch(self) -> int:
        return self._word(layout.H_PATCH)

    @property
    def protocol(self) -> str:
        return PROTOCOLS[self._word(layout.H_PROTOCOL)]

    @property
    def smp(self) -> str:
        return SMP_WAYS[self._word(layout.H_SMP)]

    @property
    def recursive(self) -> int:
        """Recursive hits of the way ``step``, so far."""
        return self._u64[layout.H_RECURSIVE // 8]

    @property
    def closed(self) -> bool:
        return self._word(layout.H_CLOSED) != 0

    @closed.setter
    def closed(self, value: bool) -> None:
        self._set_word(layout.H_CLOSED, int(value))

    @property
    def heartbeat(self) -> int:
        return self._word(layout.H_HEARTBEAT)

    @heartbeat.setter
    def heartbeat(self, value: int) -> None:
        self._set_word(layout.H_HEARTBEAT, value)

    @property
    def recorder_pid(self) -> int:
        return self._word(layout.H_RECORDER_PID)

    @property
    def recorder_start(self) -> int:
        return self._u64[layout.H_RECORDER_START // 8]

    @property
    def lost_unplaced(self) -> int:
        return self._u64[layout.H_LOST_UNPLACED // 8]

    @property
    def rules(self) -> list[str]:
        text = bytes(self._head[layout.RULES_OFFSET : layout.RULES_OFFSET + layout.RULES_SIZE])
        return [rule.decode("utf-8", "surrogateescape") for rule in text.partition(b"\0\0")[0].split(b"\0") if rule]

    # Segments

    def states(self) -> list[int]:
        """The state of each segment: layout.FREE, OWNED or FULL."""
        end = layout.STATES_OFFSET + 4 * self.segment_count
        return self._head[layout.STATES_OFFSET : end : 4].tolist()

    def set_state(self, segment: int, state: int) -> None:
        self._set_word(layout.STATES_OFFSET + 4 * segment, state)

    def take(self, segment: int, pid: int) -> None:
        """The caller, in process ``pid``, has this free segment now."""
        self.set_state(segment, layout.OWNED | pid << layout.STATE_BITS)

    def _taker(self, segment: int) -> int:
        """The process that took an owned segment: the header tells of it some time later."""
        return self._word(layout.STATES_OFFSET + 4 * segment) >> layout.STATE_BITS

    def header(self, segment: int) -> SegmentHeader:
        """The header of a segment as it is now; one of a tenancy that is just beginning has no rows."""
        offset = segment * layout.SEGMENT_SIZE
        # Whoever takes a segment zeroes `published` first and sets it last. So if stream and base are the same before
        # and after it is read, then it belongs to them.
        stream_id, base_seq = self._tenancy(offset)
        published = self._data_u32[(offset + layout.S_PUBLISHED) // 4]
        pid, tid, lost_after = _OWNER.unpack_from(self._data, offset + layout.S_PID)
        if (stream_id, base_seq) != self._tenancy(offset):
            published = lost_after = 0
        return SegmentHeader(
            segment, stream_id, base_seq, pid, tid, min(published, layout.ROWS_PER_SEGMENT), lost_after
        )

    def _tenancy(self, offset: int) -> tuple[int, int]:
        return self._data_u32[(offset + layout.S_STREAM_ID) // 4], self._data_u64[(offset + layout.S_BASE_SEQ) // 8]

    def ended(self) -> set[int]:
        """Segments whose writer will not write to them again: full ones, and those of processes that are gone."""
        states = self.states()
        owned = [(segment, self._taker(segment)) for segment, state in enumerate(states) if state == layout.OWNED]
        # 0: its state changed meanwhile.
        gone = {pid for _, pid in owned if pid and not Path(f"/proc/{pid}").exists()}
        if gone and _pids_mislead(self.path):
            gone = set()
        full = {segment for segment, state in enumerate(states) if state == layout.FULL}
        return full | {segment for segment, pid in owned if pid in gone}

    def owners(self) -> set[tuple[int, int]]:
        """Process and thread of each segment that is not free."""
        taken = [self.header(segment) for segment, state in enumerate(self.states()) if state != layout.FREE]
        return {(header.pid, header.tid) for header in taken if header.stream_id}

    def grow(self, segments: int) -> None:
        """Make room for so many segments in all. Raises DiskError and changes nothing if the disk has none."""
        with self._lock:
            self._grow(segments)

    def see_growth(self) -> None:
        """For a producer in another process than the recorder's: be able to write to segments that were added."""
        with self._lock:
            self._map_segments()

    def warm(self, segments: int) -> None:
        """Bring the first segments' pages into memory, so that the program need not wait for the file system."""
        if segments <= self._warm:
            return
        with self._lock:
            self._map_segments()
        first, last = self._warm * layout.SEGMENT_SIZE, min(segments * layout.SEGMENT_SIZE, len(self._data))
        if first < last and isinstance(self._data.obj, mmap.mmap):
            with suppress(OSError):  # Linux before 5.14 cannot; then the program waits
                self._data.obj.madvise(_MADV_POPULATE_WRITE, first, last - first)
            self._warm = segments

    def add_owned(self, pid: int) -> int:
        """A new segment that nobody saw free, the caller's own: without the compare-and-swap that Python has not."""
        with self._lock:
            segment = self.segment_count
            if segment >= layout.MAX_SEGMENTS:
                raise DiskError(errno.ENOSPC, "the arena is as large as it can be", str(self.path))
            self.take(segment, pid)
            try:
                self._grow(segment + 1)
            except DiskError:
                self.set_state(segment, layout.FREE)
                raise
            return segment

    def recycle(self, ended: set[int], sealed: dict[int, int]) -> None:
        """Give back those of the segments that :meth:`ended` found which are wholly in parts.

        Of a process that lives only its own threads may say that a segment is full: the agent does that, too, for
        threads of its process that have ended, and giving one back twice would give it to two.
        """
        for segment in ended:
            self._give_back(segment, sealed)

    def _give_back(self, segment: int, sealed: dict[int, int]) -> None:
        header = self.header(segment)  # as its writer left it
        told = sealed.get(header.stream_id, 0)
        if told < header.end_seq or (header.lost_after and told == header.end_seq):
            return
        # The next owner writes the header some time after it took the segment; until then it must not show an old one.
        start = segment * layout.SEGMENT_SIZE
        self._data_u32[(start + layout.S_PUBLISHED) // 4] = 0
        self._data[start : start + layout.ROW_SIZE] = bytes(layout.ROW_SIZE)
        self.set_state(segment, layout.FREE)

    def take_stream_id(self) -> int:
        """For a producer in the recorder, before any other runs."""
        number = self._word(layout.H_NEXT_STREAM_ID)
        self._set_word(layout.H_NEXT_STREAM_ID, number + 1)
        return number

    # Rows

    def snapshot(self, *, copy: bool = True) -> list[Chunk]:
        """All published rows there are, a chunk a segment; :func:`mmiotap.trace.rows.unsealed` makes streams of them.

        ``copy=False`` is for the one who gives segments back: rows do not change until then.
        """
        import numpy as np

        with self._lock:
            self._map_segments()
        words_a_row = layout.ROW_SIZE // 8
        chunks = []
        for segment, state in enumerate(self.states()[: len(self._data) // layout.SEGMENT_SIZE]):
            header = None if state == layout.FREE else self.header(segment)
            if header is None or header.stream_id == 0:  # it is taken, and its header not yet written
                continue
            offset = segment * layout.SEGMENT_SIZE + layout.ROW_SIZE
            words = np.frombuffer(self._data, np.uint64, words_a_row * header.published, offset)
            rows = words.reshape(-1, words_a_row)
            if copy:
                rows = rows.copy()
                if self._tenancy(segment * layout.SEGMENT_SIZE) != (header.stream_id, header.base_seq):
                    continue  # given back meanwhile: its rows are in a part
            chunks.append(Chunk(header, header.base_seq, rows))
        return chunks

    def begin(self, segment: int, stream_id: int, base_seq: int, pid: int, tid: int) -> None:
        """The owner of a segment starts to use it. The order is what :meth:`header` relies on."""
        start = segment * layout.SEGMENT_SIZE
        self.publish(segment, 0)
        self._data_u32[(start + layout.S_STREAM_ID) // 4] = stream_id
        self._data_u32[(start + layout.S_PID) // 4] = pid
        self._data_u32[(start + layout.S_TID) // 4] = tid
        self._data_u64[(start + layout.S_BASE_SEQ) // 8] = base_seq
        self._data_u64[(start + layout.S_LOST_AFTER) // 8] = 0

    def put(self, segment: int, row: int, data: bytes) -> None:
        """The owner of a segment writes rows that it has not published."""
        start = segment * layout.SEGMENT_SIZE + layout.ROW_SIZE * (1 + row)
        self._data[start : start + len(data)] = data

    def publish(self, segment: int, rows: int) -> None:
        self._data_u32[(segment * layout.SEGMENT_SIZE + layout.S_PUBLISHED) // 4] = rows

    def _grow(self, segments: int) -> None:
        if segments > self.segment_count:
            _reserve(self._fd, segments, self.path)
            self._set_word(layout.H_SEGMENT_COUNT, segments)
            self._map_segments()

    def _map_segments(self) -> None:
        """See segments that were added. Views of the old mapping stay good."""
        room = os.fstat(self._fd).st_size - layout.SEGMENTS_OFFSET
        length = min(self.segment_count * layout.SEGMENT_SIZE, room // layout.SEGMENT_SIZE * layout.SEGMENT_SIZE)
        if length > len(self._data):
            data = memoryview(mmap.mmap(self._fd, length, access=self._access, offset=layout.SEGMENTS_OFFSET))
            self._data_u32, self._data_u64 = data.cast("I"), data.cast("Q")
            self._data = data


class ArenaWriter:
    """A stream of rows by the recorder itself, for what comes from outside (marks). For one thread at a time.

    It takes segments that it adds to the arena; whoever has sealed them gives them to everybody.
    """

    def __init__(self, arena: Arena, *, pid: int, tid: int) -> None:
        """Make it before the traced program starts: a stream id is taken here."""
        self.arena = arena
        self.stream_id = arena.take_stream_id()
        self.pid = pid
        self.tid = tid
        self.segment: int | None = None
        self.used = 0
        self.next_seq = 0

    def mark(self, text: str) -> bool:
        """A ``mark`` row, now; text beyond 16,320 bytes is cut off. False: there is no room for it."""
        encoded = text.encode("utf-8", "replace")[:_MAX_EXTRA]
        return self.write(layout.MARK, extra=encoded.decode("utf-8", "ignore").encode())

    def write(
        self,
        kind: int,
        *,
        time_ns: int | None = None,
        value: int = 0,
        offset: int = 0,
        pc: int = 0,
        flags: int = 0,
        map_id: int = 0,
        duration_ns: int = layout.NO_DURATION,
        width: int = 0,
        cpu: int = -1,
        extra: bytes = b"",
    ) -> bool:
        """Write a row of any kind, and publish it. False: there is no room for it."""
        extra_rows = -(-len(extra) // layout.ROW_SIZE)
        time_ns = time.monotonic_ns() if time_ns is None else time_ns
        row = _ROW.pack(
            time_ns, value, offset, pc, flags, map_id, duration_ns, width, cpu, kind, extra_rows, len(extra)
        )
        return self.write_rows(row + extra.ljust(extra_rows * layout.ROW_SIZE, b"\0"))

    def write_rows(self, data: bytes) -> bool:
        """Write and publish rows as they are, with what continues them; at most a segment of them."""
        rows = len(data) // layout.ROW_SIZE
        if self.segment is None or self.used + rows > layout.ROWS_PER_SEGMENT:
            segment = self.take_segment()
            if segment is None:
                return False
            self.move_to(segment)
        assert self.segment is not None
        self.arena.put(self.segment, self.used, data)
        self.used += rows
        self.next_seq += rows
        self.arena.publish(self.segment, self.used)
        return True

    def take_segment(self) -> int | None:
        """A segment that is ours, or None."""
        try:
            return self.arena.add_owned(self.pid)
        except DiskError:
            return None

    def move_to(self, segment: int) -> None:
        """Go on in another segment; the one before is full."""
        full, self.segment, self.used = self.segment, segment, 0
        self.arena.begin(segment, self.stream_id, self.next_seq, self.pid, self.tid)
        if full is not None:
            self.arena.set_state(full, layout.FULL)


def _reserve(fd: int, segments: int, path: Path) -> None:
    """Make the file so long, with all its room taken from the disk."""
    try:
        os.posix_fallocate(fd, 0, layout.SEGMENTS_OFFSET + segments * layout.SEGMENT_SIZE)
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            reason = f"this file system cannot reserve room for a file ({reason})"
        raise DiskError(error.errno, reason, str(path)) from error


def _pids_mislead(arena: Path) -> bool:
    """Whether a process that writes to the arena lives in another pid namespace, so that its own pid is not ours."""
    return any(len(nested) > 1 for nested in writers(arena).values())


def writers(arena: Path) -> dict[int, list[str]]:
    """Processes that have the arena mapped to write to it, us aside; with their pid in each namespace, ours first."""
    found = {}
    ending = f" {arena.resolve()}"
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        try:
            maps = (folder / "maps").read_text(errors="surrogateescape").splitlines()
            if any(line.endswith(ending) and line.split(maxsplit=2)[1].startswith("rw") for line in maps):
                status = (folder / "status").read_text(errors="replace")
                nested = next((line for line in status.splitlines() if line.startswith("NSpid:")), f"NSpid: {pid}")
                found[pid] = nested.split()[1:]
        except OSError:
            continue  # gone, or not ours to see: then it cannot write to our arena either
    return found
