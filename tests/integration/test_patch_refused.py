"""A program whose text cannot be written (any more) keeps working, trapped, and its trace has every access."""

from pathlib import Path

import pytest

from conftest import Compile, Run
from mmiotap.trace import layout
from mmiotap.trace.reader import open_trace

HERE = Path(__file__).parent
TIMES = 100  #: in refused.c

#: What the program refuses itself; and of that what leaves a protocol no way to patch.
WAYS = ("write", "membarrier", "all", "open", "executable", "sealed")
HOPELESS = {"breakpoint": ("write", "membarrier", "all"), "stop-machine": ("write", "all")}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.write_bytes(bytes(4096))
    return path


@pytest.mark.parametrize("protocol", HOPELESS)
@pytest.mark.parametrize("way", WAYS)
def test_refused(
    compile_c: Compile, mmiotap: Run, device: Path, tmp_path: Path, patching: str, way: str, protocol: str
) -> None:
    source = (HERE / "patching" / "refused.c").read_text()
    program = compile_c(source, "refused", f"-I{HERE / 'instructions' / 'special'}")
    options = ["-q", "-o", "t", "--protocol", protocol, "--map", device]
    result = mmiotap("record", *options, "--", program, device, way)
    assert (result.status, result.stdout, result.stderr) == (0, "right\n", "")
    trace = open_trace(tmp_path / "t")
    assert trace.lost == 0
    table = trace.events(["kind", "offset", "value", "flags"])
    rows = [row for row in table.to_pylist() if row["kind"] in ("read", "write")]
    early, late = ([row for row in rows if row["offset"] == offset] for offset in (0, 4))
    assert len(early) + len(late) == len(rows)
    for some, rounds in ((early, 3), (late, 2)):
        assert [(row["kind"], row["value"]) for row in some] == [
            (kind, value) for value in range(1, rounds * TIMES + 1) for kind in ("write", "read")
        ]
    before, after = (any(row["flags"] & layout.PATCHED for row in some) for some in (early[: 2 * TIMES], late))
    assert before == (patching != "off")
    assert not after or (before and way not in HOPELESS[protocol])
