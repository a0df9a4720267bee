"""Where the kernel puts what: its own descriptions, ``events/*/*/format`` and ``events/header_page`` in tracefs.

Offsets are never constants here: they differ between kernels and architectures.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mmiotap.trace.errors import MmiotapError

_FIELD = re.compile(
    r"\s*field:(?P<type>.*?)\s*(?P<name>\w+)(?P<array>\[\w*\])?;\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
    r"(?:\s*signed:(?P<signed>[01]);)?\s*"
)
_NAME = re.compile(r"^name: (\S+)$", re.MULTILINE)
_ID = re.compile(r"^ID: (\d+)$", re.MULTILINE)
_NONE: Mapping[str, Iterable[str]] = {}


@dataclass(frozen=True)
class Field:
    """A field of a record. ``offset`` and ``size`` are bytes; an array of unknown length has size 0."""

    name: str
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True)
class Event:
    """A kind of record, and its fields by name."""

    name: str
    id: int
    fields: dict[str, Field]


@dataclass(frozen=True)
class PageLayout:
    """Offsets in a page of the ring buffer, and sizes, in bytes."""

    timestamp: int
    commit: int
    data: int
    size: int


@dataclass(frozen=True)
class Formats:
    """What a kernel says of its records."""

    page: PageLayout
    events: dict[str, Event]

    @classmethod
    def read(cls, tracefs: Path, names: Iterable[str], systems: Mapping[str, Iterable[str]] = _NONE) -> Self:
        """The running kernel's. ``names`` are the kinds of record wanted, of the group ``ftrace``; ``systems`` others'.

        Kinds that this kernel does not have are left out. Raises MmiotapError if a description is not understood.
        """
        groups = {"ftrace": names, **systems}
        files = [tracefs / "events" / group / name / "format" for group, kinds in groups.items() for name in kinds]
        texts = [file.read_text() for file in files if file.exists()]
        return cls.parse((tracefs / "events" / "header_page").read_text(), texts)

    @classmethod
    def parse(cls, header_page: str, events: Iterable[str]) -> Self:
        """From the texts themselves. Raises MmiotapError if one is not understood."""
        parsed = [_event(text) for text in events]
        return cls(_page(header_page), {event.name: event for event in parsed})


def _fields(text: str) -> dict[str, Field]:
    found = {}
    for line in text.splitlines():
        if match := _FIELD.fullmatch(line):
            numbers = int(match["offset"]), int(match["size"])
            found[match["name"]] = Field(match["name"], *numbers, signed=match["signed"] == "1")
    return found


def _event(text: str) -> Event:
    name, number = _NAME.search(text), _ID.search(text)
    if name is None or number is None:
        raise MmiotapError(f"{text[:40]!r} is no description of an ftrace event: it has no name or no ID")
    return Event(name[1], int(number[1]), _fields(text))


def _page(text: str) -> PageLayout:
    fields = _fields(text)
    try:
        timestamp, commit, data = fields["timestamp"], fields["commit"], fields["data"]
    except KeyError as error:
        raise MmiotapError(f"{text[:40]!r} is no description of a page of ftrace's: it has no {error}") from error
    page = PageLayout(timestamp.offset, commit.offset, data.offset, data.offset + data.size)
    if timestamp.size != 8 or page.timestamp % 8 or page.commit % 4 or page.data % 8 or page.size % 8 or not data.size:
        raise MmiotapError(f"pages of a layout that is not known: {page}; only those of 64-bit kernels are read")
    if page.commit + commit.size > page.data:
        raise MmiotapError(f"pages of a layout that is not known: {page}")
    return page
