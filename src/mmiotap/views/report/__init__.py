"""A trace as one HTML file, which needs nothing else: no network, no other file.

What comes from the trace is text of somebody else. Jinja escapes all of it, the data for the scripts are JSON in which
no ``<`` is left, the scripts write texts and never markup, and the page's Content-Security-Policy lets nothing run but
our one script, by its hash, and nothing load at all.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mmiotap.analysis.density import Density
from mmiotap.analysis.picture import Picture
from mmiotap.registers.decode import Decoder
from mmiotap.trace.reader import Trace
from mmiotap.version import VERSION
from mmiotap.views.report.tables import Names, facts, sections
from mmiotap.views.words import printable

#: Cells of a picture that are written at most: with more, columns become one, so that the file stays a few MB.
CELLS = 1 << 20


def write(
    found: Picture,
    polls: pa.Table,
    trace: Trace,
    decoder: Decoder | None,
    filter: str | None,
    out: IO[bytes],
) -> None:
    """Write the report of a trace; ``polls`` are its polling loops."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    script, style = _file("page.js"), _file("page.css")
    names = Names(found, trace, decoder)
    page = environment.from_string(_file("page.html")).render(
        title=printable(trace.path.resolve().name),
        command=printable(" ".join(map(str, trace.info.get("command") or []))),
        filter=None if filter is None else printable(filter),
        facts=facts(found, trace),
        places=bool(found.density.places),
        grouped=_grouped(found.density, names),
        sections=sections(found, trace, names, polls),
        version=VERSION,
        data=_json(_data(found, names)),
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        style_hash=_hash(style),
    )
    out.write(page.encode(errors="backslashreplace"))


def _file(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(data: Any) -> Markup:
    """JSON in which no character means anything to HTML."""
    text = json.dumps(data, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _data(found: Picture, names: Names) -> dict[str, Any]:
    """What the script draws."""
    density = found.density
    order = sorted(range(len(density.places)), key=lambda row: density.places[row])
    cells, twice = _columns(density, order)
    threads, _ = _folded(density.threads.T[None], twice)
    lines = sorted(density.lines, key=lambda thread: density.lines[thread])
    used = [density.lines[thread] for thread in lines]
    labels = [names.thread(*thread) for thread in lines]
    if threads[:, -1].any():
        used, labels = [*used, -1], [*labels, "all others"]
    column_ns = density.column_ns << twice
    since = (found.last_ns - (density.origin_ns or 0)) // column_ns + 1
    maps = sorted({map_id for map_id, _, _ in density.places})
    return {
        "origin": names.since(density.origin_ns or 0),
        "column_ns": column_ns,
        "columns": min(since, cells.shape[2]) if density.places else 0,
        "maps": [names.map(map_id) for map_id in maps],
        "rows": [
            {"map": maps.index(map_id), "name": names.place(map_id, offset, size), "place": place_text(offset, size)}
            for map_id, offset, size in (density.places[row] for row in order)
        ],
        "threads": labels,
        "heat": _packed(cells),
        "lanes": _packed(threads[:, used]),
        "remarks": [
            {"time": names.since(one.time_ns), "kind": one.kind}
            for one in found.remarks
            if one.kind in ("mark", "lost")
        ],
    }


def place_text(offset: int, size: int) -> str:
    return f"{offset:#x}" if size == 1 else f"{offset:#x}..{offset + size - 1:#x}"


def _columns(density: Density, order: Sequence[int]) -> tuple[npt.NDArray[np.uint64], int]:
    """The cells ``[way, row, column]``, and how often two columns were made one."""
    cells = density.cells.transpose(0, 2, 1)[:, order]
    twice = 0
    while np.count_nonzero(cells.any(0)) > CELLS:
        cells, twice = _folded(cells, 1)[0], twice + 1
    return cells, twice


def _folded(cells: npt.NDArray[np.uint64], twice: int) -> tuple[npt.NDArray[np.uint64], int]:
    ways, rows, columns = cells.shape
    return cells.reshape(ways, rows, columns >> twice, 1 << twice).sum(3), twice


def _packed(cells: npt.NDArray[np.uint64]) -> dict[str, Any]:
    """Where each row's cells end, their columns, and the counts of each way, as 32-bit numbers, zlib and base64."""
    row, column = np.nonzero(cells.any(0))
    ends = np.searchsorted(row, np.arange(cells.shape[1] + 1))
    arrays = [ends, column, *(way[row, column].clip(max=2**32 - 1) for way in cells)]
    data = b"".join(array.astype("<u4").tobytes() for array in arrays)
    return {"arrays": [len(array) for array in arrays], "data": base64.b64encode(zlib.compress(data, 9)).decode()}


def _grouped(density: Density, names: Names) -> str:
    sizes = {map_id: size for map_id, _, size in density.places if size > 1}
    return ", ".join(f"{names.map(map_id)} ({size} bytes)" for map_id, size in sorted(sizes.items()))
