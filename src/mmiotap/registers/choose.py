"""Which descriptions name the places of a trace: those that are asked for, else those it remembers, else ours."""

import contextlib
import json
import re
from collections import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from mmiotap.registers import shipped
from mmiotap.registers.decode import Binding, Decoder
from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description
from mmiotap.trace import store
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.names import glob_matches
from mmiotap.trace.reader import Trace

#: Version of the file in which a trace remembers.
_FORMAT = 1
_RESOURCE = re.compile(r".*/resource[0-9]+(_wc)?")
_FLAG_BITS = 0xF


@dataclass(frozen=True)
class Chosen:
    """A description and the mappings that a user meant with it."""

    given: str  #: as it was written
    map: str | None
    offset: int
    description: Description


def decoder(
    trace: Trace, regs: Sequence[str] = (), variants: Sequence[str] = (), *, perl: bool = False, ours: bool = True
) -> Decoder | None:
    """What names the places of a trace; None if nothing does.

    ``regs``, ``variants`` and ``perl`` are as ``--regs``, ``--variant`` and ``--perl`` (docs/registers.md). ``ours``:
    where there is no ``regs``, and the trace remembers nothing, it may be a description that we ship. Raises
    MmiotapError if a description cannot be read, or does not say which mapping it is of.
    """
    chosen = asked(regs, variants, perl=perl) if regs else remembered(trace)
    bound = [one for each in chosen for one in bind(each, trace)]
    if not chosen and ours:
        bound = list(_known(trace))
    return Decoder(bound) if bound else None


def asked(regs: Sequence[str], variants: Sequence[str], *, perl: bool) -> list[Chosen]:
    """The descriptions of ``--regs``, read."""
    found = []
    for text in regs:
        wanted = Wanted.parse(text)
        found.append(Chosen(text, wanted.map, wanted.offset, load(wanted, variants, perl=perl)))
    return found


def remember(trace: Trace, chosen: Sequence[Chosen]) -> None:
    """Keep descriptions, whole, in the trace, instead of those it has. None: it forgets. Raises DiskError."""
    path = store.TraceDir(trace.path).registers_file
    if not chosen:
        with store.writing(path):
            path.unlink(missing_ok=True)
        return
    descriptions = list({id(one.description): one.description for one in chosen}.values())
    number = {id(one): place for place, one in enumerate(descriptions)}
    data = {
        "format": _FORMAT,
        "chosen": [vars(one) | {"description": number[id(one.description)]} for one in chosen],
        "descriptions": [one.to_json() for one in descriptions],
    }
    with store.new_file(path) as file:
        file.write(json.dumps(data).encode())


def remembered(trace: Trace) -> list[Chosen]:
    """What :func:`remember` has kept in a trace. Raises MmiotapError if that is damaged."""
    path = store.TraceDir(trace.path).registers_file
    try:
        data = json.loads(path.read_bytes())
        if data["format"] > _FORMAT:
            raise MmiotapError(f"{path} was made by a newer mmiotap; update mmiotap to read it")
        descriptions = [Description.from_json(one) for one in data["descriptions"]]
        return [Chosen(**(one | {"description": descriptions[one["description"]]})) for one in data["chosen"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MmiotapError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise MmiotapError(f"{path} is damaged; make it again with mmiotap annotate") from error


def bind(chosen: Chosen, trace: Trace) -> list[Binding]:
    """The mappings that a description is of."""
    mappings = _selected(chosen, trace.mappings)
    return [Binding(chosen.description, one.map_id, chosen.offset - _begin(one, chosen, trace)) for one in mappings]


Bound: TypeAlias = list[tuple[Chosen, Binding]]


def bound(trace: Trace) -> Bound:
    """What a trace remembers, and each mapping that it is of. Raises MmiotapError."""
    return [(chosen, one) for chosen in remembered(trace) for one in bind(chosen, trace)]


def inherit(merged: Trace, sources: Iterable[tuple[Bound, abc.Mapping[int, int]]]) -> None:
    """Have a merged trace remember what its sources do, of their mappings, which have other ids there."""
    mappings = {one.map_id: one for one in merged.mappings}
    found = []
    for known, map_ids in sources:
        for chosen, one in known:
            mapping = mappings[map_ids[one.map_id]]
            # The device found there may be another machine's, at the same address: what begins where stays.
            offset = one.base + _begin(mapping, chosen, merged)
            found.append(replace(chosen, map=str(mapping.map_id), offset=offset))
    if found:
        remember(merged, found)


def _selected(chosen: Chosen, mappings: Sequence[Mapping]) -> list[Mapping]:
    glob = chosen.map
    if glob is None:
        memory = [one for one in mappings if not one.path.startswith("ioports:")]
        if len({(one.path, one.bar) for one in memory}) > 1:
            raise MmiotapError(f"--regs {chosen.given}: of which mapping is it? FILE@MAP; there are {_list(memory)}")
        return memory
    if glob.isdecimal():
        found = [one for one in mappings if one.map_id == int(glob)]
    else:
        found = [one for one in mappings if glob_matches(glob, one)]
    if not found:
        there = f"there are {_list(mappings)}" if mappings else "there is none"
        raise MmiotapError(f"--regs {chosen.given}: no mapping is {glob!r}; {there}")
    return found


def _list(mappings: Sequence[Mapping]) -> str:
    names = [f"{one.map_id} ({one.path})" for one in mappings]
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _begin(mapping: Mapping, chosen: Chosen, trace: Trace) -> int:
    """What of the description's addresses is at the begin of a mapping."""
    if chosen.description.absolute:
        return mapping.physical or 0
    return _in_bar(mapping, _device(mapping, trace.info.get("pci_devices", [])))


def _in_bar(mapping: Mapping, device: dict[str, Any] | None) -> int:
    """Where in its base address register's memory a mapping begins; 0 where the trace does not tell."""
    if device is not None and mapping.bar is not None and mapping.physical is not None:
        with contextlib.suppress(LookupError, TypeError):  # the trace says less of it
            start: int = device["resources"][mapping.bar]["start"] & ~_FLAG_BITS
            return max(mapping.physical - start, 0)
    return mapping.file_offset if _RESOURCE.fullmatch(mapping.path) else 0


def _device(mapping: Mapping, devices: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The PCI device that a mapping is of."""
    for one in devices:
        domain = one.get("domain")
        if mapping.device == (one.get("address") if domain is None else f"{domain:04x}:{one.get('address')}"):
            return one if mapping.device is not None else None
    return None


def _known(trace: Trace) -> Iterable[Binding]:
    """Mappings of devices whose description we ship."""
    read: dict[Any, Description] = {}
    for mapping in trace.mappings:
        device = _device(mapping, trace.info.get("pci_devices", []))
        if device is None or mapping.bar is None or mapping.path.startswith("ioports:"):
            continue
        if path := shipped.of(device.get("vendor"), device.get("device"), mapping.bar):
            if path not in read:
                read[path] = shipped.elaborated(path)
            yield Binding(read[path], mapping.map_id, -_in_bar(mapping, device))
