"""``mmiotap report``: what it says, and what a browser makes of it."""

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from chromium import Page
from conftest import Run
from mmiotap.trace import layout
from mmiotap.trace.model import Mapping, Process, Site
from synthetic import START, UIO, row, write_trace

#: What would run if any of it were taken for markup.
EVIL = "/dev/</script><script>document.title = 'taken over'</script><img src=http://127.0.0.1:9/x>"
HOSTILE = Mapping(3, 100, EVIL, 0x7F0000200000, 0x1000, 0, "rw")
MILLISECOND = 1_000_000

ROWS = [
    row(0, "mark", text="begin </script><script>alert(1)</script>"),
    # A register in the first half of the time, one in the second.
    *(row(1000 + i * MILLISECOND, "read", 4, 0x08, i, took=100 + i, pc=0x1000) for i in range(100)),
    *(row(1000 + i * MILLISECOND, "write", 4, 0x10, 2 * i, tid=101, pc=0x1010, took=900) for i in range(100, 200)),
    row(199_500_000, "lost", value=7),
    row(200 * MILLISECOND, "unknown", 8, 0x20, map_id=3, data=b"\x0f\xae\x00", pc=0x1020, flags=layout.VALUE_UNKNOWN),
]
REGISTERS = """addrmap device { default regwidth = 32;
    reg { field { sw = rw; } EN[1]; field { sw = rw; } REST[31:1]; } CONTROL @ 0x8; };"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    sites = [Site(100, 0x1000, 4, "jump", 4, "8b02", START)]
    (tmp_path / "device.rdl").write_text(REGISTERS)
    processes = [Process(100, 1, "/opt/<b>driver")]
    return write_trace(tmp_path / "t.mmiotap", ROWS, mappings=[UIO, HOSTILE], sites=sites, processes=processes)


@pytest.fixture
def report(mmiotap: Run, trace: Path, tmp_path: Path) -> Path:
    made = mmiotap("report", trace, "--regs", f"{tmp_path}/device.rdl@uio0", "-o", tmp_path / "report.html")
    assert (made.status, made.stdout, made.stderr) == (0, "", "")
    return tmp_path / "report.html"


@pytest.fixture
def page(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, dark = getattr(request, "param", (1200, False))
    page = Page(tmp_path, width=width, dark=dark)
    yield page
    page.close()


def opened(page: Page, report: Path) -> None:
    page.open(report)
    page.wait_for("document.documentElement?.dataset.drawn === 'yes'")


def painted(page: Page, share: float, row: int, rows: int) -> Any:
    """The red, green, blue and opacity of the heat map at a share of its time, in the middle of a row."""
    return page.value(
        f"""(() => {{
            const canvas = document.getElementById("heat");
            const left = Math.round(Math.min(190, canvas.clientWidth * 0.3));
            const x = left + {share} * (canvas.clientWidth - left);
            const y = {(row + 0.5) / rows} * (canvas.clientHeight - 22);
            return [...canvas.getContext("2d").getImageData(x - 3, y, 7, 1).data];
        }})()"""
    )


@pytest.mark.parametrize("page", [(1200, False), (400, True)], indirect=True, ids=["wide", "phone, dark"])
def test_a_browser_shows_it_and_asks_for_nothing(page: Page, report: Path, request: pytest.FixtureRequest) -> None:
    opened(page, report)
    assert page.requests == [report.as_uri()]
    assert page.complaints == []
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    width, dark = request.node.callspec.params["page"]
    assert page.value("window.innerWidth") == width
    [brightness] = page.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 1).map(Number)")
    assert (brightness < 64) == dark
    # Rows: 0x8 in the first half, 0x10 in the second, then the other mapping's one at the very end.
    there = [[any(painted(page, share, number, 3)) for share in (0.25, 0.75)] for number in range(3)]
    assert there == [[True, False], [False, True], [False, False]]


def press(page: Page, script: str) -> None:
    """Run this; what it changes has been drawn when the frame after the next begins."""
    page.value(f"(() => {{ {script} }})()")
    page.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def choose(page: Page, name: str, value: str) -> None:
    press(
        page,
        f"const one = document.getElementById('{name}'); one.value = '{value}'; one.dispatchEvent(new Event('change'))",
    )


def pointed(page: Page, share: float, row: int, rows: int) -> str:
    """What is said of a place when the pointer is there."""
    page.value("document.getElementById('readout').textContent = ''")
    box = page.value("(({x, y, width, height}) => [x, y, width, height])(heat.getBoundingClientRect())")
    left = min(190, box[2] * 0.3)
    x, y = box[0] + left + share * (box[2] - left), box[1] + (box[3] - 22) * (row + 0.5) / rows
    page.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait_for("document.getElementById('readout').textContent")
    told: str = page.value("document.getElementById('readout').textContent")
    return told


def test_zoom_and_what_is_under_the_pointer(page: Page, report: Path) -> None:
    opened(page, report)
    told = re.fullmatch(
        r"1:uio0 0x8 CONTROL, ([0-9.]+) ms to ([0-9.]+) ms: ([0-9]+) reads, 0 writes", pointed(page, 0.25, 0, 3)
    )
    assert told
    assert float(told[1]) <= 50 <= float(told[2]) + 1
    press(page, "document.getElementById('in').click()")
    told = re.search(r", ([0-9.]+) ms to ([0-9.]+) ms:", pointed(page, 0.25, 0, 3))
    assert told, "the middle half of the time: a fourth of it is at 3/8 of all"
    assert float(told[1]) == pytest.approx(75, abs=1.5)
    press(page, "document.getElementById('whole').click()")
    choose(page, "ways", "writes")
    assert [any(painted(page, 0.25, 0, 3)), any(painted(page, 0.75, 1, 3))] == [False, True]
    choose(page, "maps", "1")
    assert pointed(page, 0.5, 0, 1).startswith("3:x> 0x20, "), "its only row has all the height"
    assert page.complaints == []


def test_nothing_of_the_trace_is_markup(page: Page, report: Path) -> None:
    text = report.read_text()
    assert text.count("<script") == text.count("</script") == 2
    assert "<img" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["maps"] == ["1:uio0", "3:x>"], "the last part of its path"
    assert EVIL in unescape(text)
    assert "begin </script><script>alert(1)</script>" in unescape(text)
    opened(page, report)
    assert page.value("document.title") == "t.mmiotap – mmiotap"
    assert page.value("document.scripts.length") == 2
    assert page.value(f"document.body.innerText.includes({json.dumps(EVIL)})")


def test_the_page_lets_nothing_out(page: Page, report: Path) -> None:
    opened(page, report)
    assert page.value("fetch('http://127.0.0.1:9/').then(() => 'out', () => 'kept')") == "kept"
    page.value("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'}))")
    page.value("new Promise((done) => setTimeout(done))")
    told = [one for one in page.complaints if "violates" in one and "Content Security Policy" in one]
    assert [any(word in one for one in told) for word in ("connect-src", "img-src")] == [True, True]


def cells(text: str, section: str) -> list[list[str]]:
    """The rows of a section's table."""
    table = text.split(f'<h2 id="{section}">')[1].split("</table>")[0].split("<tbody>")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", one, re.DOTALL)] for one in rows]


def test_its_tables(report: Path) -> None:
    text = report.read_text()
    assert cells(text, "registers")[0] == [
        "1:uio0", "0x8", "CONTROL", "4", "100", "0", "0", "0x00000000", "0x00000063", "EN REST=0x31",
        "100ns", "150ns", "199ns",
    ]  # fmt: skip
    assert cells(text, "registers")[1][:7] == ["1:uio0", "0x10", "", "4", "0", "100", "0"]
    assert ["0x1000", "mov eax, [rdx]", "jump", "4", "100", "0", "100", "0"] in cells(text, "sites")
    assert cells(text, "threads")[0] == ["<b>driver 100/100", "100", "0", "1"]
    assert [one[1] for one in cells(text, "marks")] == [
        "begin </script><script>alert(1)</script>",
        "7 events were lost here",
    ]
    assert cells(text, "mappings")[0][:4] == ["1:uio0", "100", "100", "0"]
    assert len(re.findall("<rect", text)) >= 5
    assert ": 100 writes</title>" in text


def test_polling_loops(mmiotap: Run, trace: Path, report: Path, tmp_path: Path) -> None:
    assert 'id="polls"' not in report.read_text(), "each value that it read was another one: data, and no loop"
    rows = [row(1000 * i, "read", 4, 0x08, int(i == 49), pc=0x1000) for i in range(50)]
    polling = write_trace(tmp_path / "polling", rows)
    made = mmiotap("report", polling, "--regs", f"{tmp_path}/device.rdl@uio0", "-o", tmp_path / "polling.html")
    assert (made.status, made.stderr) == (0, "")
    [loop] = cells((tmp_path / "polling.html").read_text(), "polls")
    assert loop[:3] == ["1:uio0", "0x8", "CONTROL"]
    assert "EN" in loop[3]
    assert loop[6:10] == ["1", "1", "50", "50"], "loops, ended, reads, the most of one"


def test_a_filter_chooses(mmiotap: Run, trace: Path, tmp_path: Path) -> None:
    made = mmiotap("report", trace, "--filter", "write and value < 300", "-o", tmp_path / "r.html")
    assert made.status == 0
    text = (tmp_path / "r.html").read_text()
    assert "write and value &lt; 300" in text
    assert [one[:6] for one in cells(text, "registers")] == [["1:uio0", "0x10", "4", "0", "50", "0"]]
    wrong = mmiotap("report", trace, "--filter", "valu == 1", "-o", tmp_path / "w.html")
    assert (wrong.status, wrong.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "w.html").exists()


def test_traces_with_little_to_show(mmiotap: Run, tmp_path: Path, page: Page) -> None:
    for name, rows in (("none", []), ("mark", [row(5, "mark", text="alone")]), ("one", [row(5, "read", 4, 8)])):
        made = mmiotap("report", write_trace(tmp_path / name, rows), "-o", tmp_path / f"{name}.html")
        assert (made.status, made.stderr) == (0, "")
    assert "Heat map" not in (tmp_path / "none.html").read_text()
    assert cells((tmp_path / "mark.html").read_text(), "marks")[0][1] == "alone"
    opened(page, tmp_path / "one.html")
    assert any(painted(page, 0.02, 0, 1))
    assert page.complaints == []


def test_a_file_is_replaced_only_when_asked(mmiotap: Run, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("mine")
    refused = mmiotap("report", trace, "-o", tmp_path / "mine.html")
    assert refused.status == 1
    assert refused.stderr == f"mmiotap: {tmp_path}/mine.html exists; choose another name, or replace it with -f\n"
    assert mmiotap("report", trace, "-f", "-o", tmp_path / "mine.html").status == 0
    assert mmiotap("report", trace).stdout == (tmp_path / "mine.html").read_text()
    assert mmiotap("report", tmp_path / "mine.html", "-o", tmp_path / "x.html").status == 1
    assert "No space left" in mmiotap("report", trace, "-o", "/dev/full").stderr
