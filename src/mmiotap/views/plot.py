"""Pictures of a trace, by matplotlib: addresses and time, rates, latencies.

Text from the trace is never taken for matplotlib's formulas (``$…$``).
"""

from collections.abc import Sequence
from typing import IO, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from mmiotap.analysis.picture import Picture
from mmiotap.registers.decode import Decoder
from mmiotap.trace.reader import Trace
from mmiotap.views.lines import duration_text
from mmiotap.views.report.tables import Names
from mmiotap.views.words import printable

#: Why a panel cannot be drawn.
WHY_NOT = {
    "map": "there is no access that could be drawn",
    "rate": "there is no access that could be drawn",
    "latency": "it was recorded without --latency, so nobody knows how long accesses took",
}

_WIDTH = 12.0  #: inches, of 100 points
_HEIGHT = {"map": 5.0, "rate": 2.5, "latency": 2.5}
#: Columns and rows of a picture at most: it has more points than that, so each is seen.
_COLUMNS, _ROWS = 768, 400
#: Without the lightest ones, which are hardly seen on white.
_COLOURS = ListedColormap(mpl.colormaps["viridis_r"](np.linspace(0.25, 1, 256)))
#: Names beside the rows of the map at most.
_NAMES = 40

Counts = npt.NDArray[np.float64]


def has(found: Picture, panel: str) -> bool:
    """Is there anything to draw?"""
    return bool(found.latency[:2].sum()) if panel == "latency" else bool(found.density.places)


def write(
    found: Picture, trace: Trace, decoder: Decoder | None, panels: Sequence[str], format: str, out: IO[bytes]
) -> None:
    """Draw some panels, one below the other; ``format`` is png or svg."""
    names = Names(found, trace, decoder)
    heights = [_HEIGHT[panel] for panel in panels]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.6), dpi=100, layout="constrained")
    figure.suptitle(printable(trace.path.resolve().name), parse_math=False)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    draw = {"map": _map, "rate": _rate, "latency": _latency}
    for panel, ax in zip(panels, axes, strict=True):
        draw[panel](ax, found, names)
    # The same trace gives the same file, and the texts of an SVG are texts.
    with mpl.rc_context({"svg.hashsalt": "mmiotap", "svg.fonttype": "none"}):
        figure.savefig(out, format=format, metadata={"Date": None} if format == "svg" else None)


def _map(ax: Axes, found: Picture, names: Names) -> None:
    density = found.density
    order = sorted(range(len(density.places)), key=lambda row: density.places[row])
    cells, edges = _columns(found, density.cells.sum(0)[:, order], names)
    cells = np.add.reduceat(cells, range(0, len(order), -(-len(order) // _ROWS)), axis=1)
    cells[cells == 0] = np.nan
    most = max(2.0, float(np.nanmax(cells)))
    image = ax.imshow(
        cells.T,
        aspect="auto",
        interpolation="nearest",
        extent=(edges[0], edges[-1], len(order), 0),
        norm=LogNorm(1, most),
        cmap=_COLOURS,
    )
    ax.figure.colorbar(image, ax=ax, label=f"accesses in {_step(edges)}", format="%g")
    shown = range(0, len(order), max(1, -(-len(order) // _NAMES)))
    several = len({map_id for map_id, _, _ in density.places}) > 1
    labels = []
    for row in shown:
        map_id, offset, size = density.places[order[row]]
        labels.append(f"{names.map(map_id)}  " * several + names.place(map_id, offset, size))
    ax.set_yticks([row + 0.5 for row in shown], labels, fontsize=7, parse_math=False)
    ax.set_xlabel("seconds")


def _rate(ax: Axes, found: Picture, names: Names) -> None:
    density = found.density
    maps = np.array([map_id for map_id, _, _ in density.places])
    for map_id in sorted(set(maps.tolist())):
        counts = density.cells[:, :, : len(maps)][:, :, maps == map_id].sum((0, 2))[:, None]
        cells, edges = _columns(found, counts, names)
        rates = cells[:, 0] / (edges[1] - edges[0])
        ax.stairs(rates, edges, label=names.map(map_id))
    ax.set(xlabel="seconds", ylabel="accesses a second", xlim=(edges[0], edges[-1]), ylim=(0, None))
    for text in ax.legend(fontsize=7).get_texts():
        text.set_parse_math(False)


def _latency(ax: Axes, found: Picture, _names: Names) -> None:
    counts = found.latency[:2]
    used = np.flatnonzero(counts.sum(0))
    edges = 2.0 ** (np.arange(used[0], used[-1] + 2) / 4)
    for way, label in enumerate(("reads", "writes")):
        ax.stairs(counts[way, used[0] : used[-1] + 1], edges, fill=True, alpha=0.6, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _place: duration_text(value))
    ax.set(xlabel="how long an access took", ylabel="accesses")
    ax.legend(fontsize=7)


def _columns(found: Picture, cells: Any, names: Names) -> tuple[Counts, Counts]:
    """Columns that were reached, so few that they can be drawn, and the times of their edges in seconds."""
    density = found.density
    origin = density.origin_ns or 0
    used = (found.last_ns - origin) // density.column_ns + 1
    size = 1
    while -(-used // size) > _COLUMNS:
        size *= 2
    count = -(-used // size)
    whole: Counts = cells[: min(count * size, len(cells))].astype(np.float64)
    columns = whole.reshape(count, size, -1).sum(1)
    times = names.since(origin) + np.arange(count + 1) * size * density.column_ns
    return columns, times / 1e9


def _step(edges: Counts) -> str:
    return duration_text(float(edges[1] - edges[0]) * 1e9)
