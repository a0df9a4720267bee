"""The writes of a trace as a program that makes them again, in C or Python, for people to read and change.

Reads are left out, but for those that were repeated: there the driver waited, and a comment says for what. What cannot
be made again (a value that is not known, a loss) is a comment in its place, with the word :data:`NOT`.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from mmiotap.trace import layout
from mmiotap.trace.model import Mapping
from mmiotap.trace.reader import Trace

#: What stands before everything that the program leaves out.
NOT = "NOT REPLAYED"

_COLUMNS = ["time_ns", "kind", "width", "map_id", "offset", "value", "data", "tid", "flags", "text"]
#: Statements of one function: compilers take ages for functions without end.
_STATEMENTS = 1000
#: A pause of the driver that is worth a comment, in nanoseconds.
_PAUSE = 1_000_000
_WORD = 8


def write(format: str, tables: Iterator[pa.Table], trace: Trace, out: IO[bytes]) -> int:
    """Write the program. ``register`` and ``fields`` of a decoder become comments, where the tables have them.

    :returns: how many accesses and losses it has as comments only.
    """
    script = _Script(_C if format == "c" else _PYTHON, trace, lambda text: out.write(text.encode(errors="replace")))
    for table in tables:
        script.take(table)
    script.finish()
    return script.left


@dataclass
class _Poll:
    """Reads of the same place by one thread, one after the other."""

    place: tuple[int, int, int]
    where: str
    first: int | None
    last: int | None
    count: int = 1


@dataclass(frozen=True)
class _Language:
    """How things are said. ``{}`` in strings are filled in; @WORDS@ in long ones, which are full of braces."""

    begin: str
    comment: str
    mapping: str
    function: str
    statement: str
    end_of_function: str
    name: str
    opened: str
    call: str
    main: str


class _Script:
    def __init__(self, language: _Language, trace: Trace, say: Callable[[str], object]) -> None:
        self._language, self._say = language, say
        self._mappings = {mapping.map_id: mapping for mapping in trace.mappings}
        #: Files to replay on, in the order of arguments; of each its mappings, and the end of what is written there.
        self._files: dict[str, dict[int, int]] = {}
        self._polls: dict[int, _Poll] = {}
        self._functions = 0
        self._open = False
        self._room = 0  # for so many more statements in the function that is open
        self._last_ns: int | None = None
        self.left = self.writes = 0
        command = trace.info.get("command")
        made_of = f"{trace.path.name}" + (f", a recording of {' '.join(map(str, command))}" if command else "")
        self._say(language.begin.replace("@TRACE@", _plain(made_of)))

    def take(self, table: pa.Table) -> None:
        columns = [table[name].to_pylist() for name in _COLUMNS]
        for name in ("register", "fields"):
            columns.append(table[name].to_pylist() if name in table.schema.names else [None] * table.num_rows)
        for time_ns, kind, width, map_id, offset, value, data, tid, flags, text, register, fields in zip(
            *columns, strict=True
        ):
            unknown = bool(flags & layout.VALUE_UNKNOWN)
            place = f"{offset:#07x}{f' {register}' if register else ''}"
            if kind == "read":
                # The first half of a read-modify-write waits for nothing.
                if not flags & layout.RMW:
                    self._read(tid, (map_id, offset, width), place, None if unknown else value)
                continue
            self._waited(tid)
            self._pause(time_ns)
            if kind == "write":
                self._write(map_id, width, offset, value, data, flags, register, fields)
            elif kind == "unknown":
                self._leave(f"an instruction at {place} of mapping {map_id}, which may have written")
            elif kind == "lost":
                self._leave(f"{value} events were lost here")
            elif kind == "mark":
                self._comment(f"--- {text}")

    def finish(self) -> None:
        for tid in list(self._polls):
            self._waited(tid)
        self._end_function()
        language = self._language
        opened = [
            language.opened.format(map=map_id, number=number, offset=self._mappings[map_id].file_offset, length=end)
            for number, ends in enumerate(self._files.values())
            for map_id, end in ends.items()
        ]
        words = {
            "@NAMES@": "".join(language.name.format(_quoted(path)) for path in self._files),
            "@COUNT@": str(len(self._files)),
            "@OPENED@": "".join(opened),
            "@CALLS@": "".join(language.call.format(number) for number in range(1, self._functions + 1)),
            "@WRITES@": str(self.writes),
            "@LEFT@": str(self.left),
        }
        self._say(re.sub("@[A-Z]+@", lambda found: words[found[0]], language.main))

    def _write(
        self,
        map_id: int,
        width: int,
        offset: int,
        value: int,
        data: bytes | None,
        flags: int,
        register: str | None,
        fields: str | None,
    ) -> None:
        name = f" ({register})" if register else ""
        what = f"a write of {width} bytes to {offset:#x}{name} of mapping {map_id}"
        mapping = self._mappings.get(map_id)
        if flags & layout.VALUE_UNKNOWN:
            self._leave(f"{what}, whose value is not known")
        elif mapping is None:
            self._leave(f"{what}, of which nothing else is known")
        elif mapping.path.startswith("ioports:"):
            self._leave(f"{what}, which is no memory but ports")
        elif offset + width > mapping.length:
            self._leave(f"{what}, which is only {mapping.length:#x} long")
        else:
            self._declare(mapping, offset + width)
            words = " ".join(word for word in (register, fields) if word)
            words += " (a hook has answered, swallowed or changed it)" if flags & layout.HOOKED else ""
            pieces = list(_pieces(offset, (data or value.to_bytes(_WORD, "little"))[:width]))
            if len(pieces) > 1:
                self._comment(f"one access of {width} bytes")
            for at, piece in pieces:
                number = f"0x{int.from_bytes(piece, 'little'):0{2 * len(piece)}x}"
                line = self._language.statement.format(
                    bits=8 * len(piece), map=map_id, offset=f"{at:#07x}", value=number
                )
                self._line(f"{line:<40}  {self._said(words)}" if words else line)
            self.writes += 1

    def _declare(self, mapping: Mapping, end: int) -> None:
        """Outside of functions, where the mapping is first written to."""
        ends = self._files.setdefault(mapping.path, {})
        if mapping.map_id not in ends:
            self._end_function()
            self._say(self._language.mapping.format(map=mapping.map_id, comment=self._said(mapping.path)))
        ends[mapping.map_id] = max(end, ends.get(mapping.map_id, 0))

    def _read(self, tid: int, place: tuple[int, int, int], where: str, value: int | None) -> None:
        poll = self._polls.get(tid)
        if poll is not None and poll.place == place:
            poll.count += 1
            poll.last = value
        else:
            self._waited(tid)
            self._polls[tid] = _Poll(place, where, value, value)

    def _waited(self, tid: int) -> None:
        """What a thread has read, if it was more than once, is told before what it does next."""
        poll = self._polls.pop(tid, None)
        if poll is not None and poll.count > 1:
            map_id, _, width = poll.place
            first, last = ("?" if one is None else f"0x{one:0{2 * min(width, 8)}x}" for one in (poll.first, poll.last))
            values = f"until {last}" if first != last else f"always {last}"
            self._comment(f"wait: map{map_id} {poll.where} was read {poll.count} times, {values}")

    def _pause(self, time_ns: int) -> None:
        if self._last_ns is not None and time_ns - self._last_ns >= _PAUSE:
            self._comment(f"{(time_ns - self._last_ns) / 1e6:.1f} ms later")
        self._last_ns = time_ns

    def _leave(self, what: str) -> None:
        self.left += 1
        self._comment(f"{NOT}: {what}")

    def _comment(self, text: str) -> None:
        self._line(self._said(text))

    def _said(self, text: str) -> str:
        return self._language.comment.format(_plain(text))

    def _line(self, text: str) -> None:
        if not self._room:
            self._end_function()
            self._functions += 1
            self._open = True
            self._room = _STATEMENTS
            self._say(self._language.function.format(number=self._functions))
        self._room -= 1
        self._say(f"    {text}\n")

    def _end_function(self) -> None:
        if self._open:
            self._say(self._language.end_of_function)
        self._open, self._room = False, 0


def _pieces(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """A value in the words that processors write: one, but for vectors and other wide ones."""
    begin = 0
    for size in (8, 4, 2, 1):
        while len(data) - begin >= size:
            yield offset + begin, data[begin : begin + size]
            begin += size


def _plain(text: str) -> str:
    """Text from a trace that can stand in a comment, and does not end it."""
    one_line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return one_line.replace("*/", "* /").replace("/*", "/ *").rstrip("\\")


def _quoted(text: str) -> str:
    """Text from a trace as a string of C or Python, without line breaks and with the quotes in it escaped."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)


_C = _Language(
    begin="""\
/*
 * Makes the writes of @TRACE@ again.
 *
 *     gcc -O1 -Wall -o replay replay.c && ./replay FILE...
 *
 * FILE is what the driver had mapped, or what shall take its place; main() says how many, and which.
 * Reads are left out. Where the driver waited a comment tells for what.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef volatile uint8_t *mapping;

static inline void w8(mapping map, uint64_t offset, uint8_t value) { *(volatile uint8_t *)(map + offset) = value; }
static inline void w16(mapping map, uint64_t offset, uint16_t value) { *(volatile uint16_t *)(map + offset) = value; }
static inline void w32(mapping map, uint64_t offset, uint32_t value) { *(volatile uint32_t *)(map + offset) = value; }
static inline void w64(mapping map, uint64_t offset, uint64_t value) { *(volatile uint64_t *)(map + offset) = value; }
""",
    comment="/* {} */",
    mapping="\nstatic mapping map{map}; {comment}\n",
    function="\nstatic void part_{number}(void)\n{{\n",
    statement="w{bits}(map{map}, {offset}, {value});",
    end_of_function="}\n",
    name="    {},\n",
    opened="    map{map} = map_file(files[{number}], {offset:#x}, {length:#x});\n",
    call="    part_{}();\n",
    main="""
static inline mapping map_file(const char *path, uint64_t offset, uint64_t length)
{
    struct stat about;
    void *found;
    int file = open(path, O_RDWR | O_SYNC | O_CLOEXEC);

    if (file < 0 || fstat(file, &about)) {
        fprintf(stderr, "replay: %s: %s\\n", path, strerror(errno));
        exit(1);
    }
    if (S_ISREG(about.st_mode) && (uint64_t)about.st_size < offset + length) {
        fprintf(stderr, "replay: %s is too short: the writes need %llu bytes\\n", path,
                (unsigned long long)(offset + length));
        exit(1);
    }
    found = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
    if (found == MAP_FAILED) {
        fprintf(stderr, "replay: %s cannot be mapped: %s\\n", path, strerror(errno));
        exit(1);
    }
    close(file);
    return found;
}

/* What the driver had mapped, in the order of the arguments. */
static const char *const names[] = {
@NAMES@    0,
};

int main(int count, char **arguments)
{
    char **files = arguments + 1;

    if (count != 1 + @COUNT@) {
        fprintf(stderr, "usage: %s FILE..., @COUNT@ in all, for:\\n", arguments[0]);
        for (int i = 0; names[i]; i++)
            fprintf(stderr, "  %s\\n", names[i]);
        return 2;
    }
    (void)files;
@OPENED@@CALLS@    fprintf(stderr, "replay: @WRITES@ writes made, @LEFT@ things not replayed\\n");
    return 0;
}
""",
)

_PYTHON = _Language(
    begin="""\
#!/usr/bin/env python3
# Makes the writes of @TRACE@ again.
#
#     python3 replay.py FILE...
#
# FILE is what the driver had mapped, or what shall take its place; main() says how many, and which.
# Reads are left out. Where the driver waited a comment tells for what.
import ctypes
import mmap
import os
import stat
import sys


# Each is one store of its width.
def w8(memory, offset, value):
    ctypes.c_uint8.from_buffer(memory, offset).value = value


def w16(memory, offset, value):
    ctypes.c_uint16.from_buffer(memory, offset).value = value


def w32(memory, offset, value):
    ctypes.c_uint32.from_buffer(memory, offset).value = value


def w64(memory, offset, value):
    ctypes.c_uint64.from_buffer(memory, offset).value = value
""",
    comment="# {}",
    mapping="\n\nmap{map} = None  {comment}\n",
    function="\n\ndef part_{number}():\n    pass\n",
    statement="w{bits}(map{map}, {offset}, {value})",
    end_of_function="",
    name="    {},\n",
    opened="    global map{map}\n    map{map} = map_file(files[{number}], {offset:#x}, {length:#x})\n",
    call="    part_{}()\n",
    main="""

def map_file(path, offset, length):
    try:
        file = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        about = os.fstat(file)
        if stat.S_ISREG(about.st_mode) and about.st_size < offset + length:
            sys.exit(f"replay: {path} is too short: the writes need {offset + length} bytes")
        return mmap.mmap(file, length, offset=offset)
    except OSError as error:
        sys.exit(f"replay: {path}: {error.strerror}")


# What the driver had mapped, in the order of the arguments.
names = [
@NAMES@]


def main():
    files = sys.argv[1:]
    if len(files) != @COUNT@:
        print(f"usage: {sys.argv[0]} FILE..., @COUNT@ in all, for:", *names, sep="\\n  ", file=sys.stderr)
        return 2
@OPENED@@CALLS@    print("replay: @WRITES@ writes made, @LEFT@ things not replayed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
""",
)
