"""Feeds arbitrary bytes to one importer: `python fuzz_import.py KIND FOLDER…  [libFuzzer's options]`.

An importer may refuse what it gets with a MmiotapError of one line that names the log and the place (a line, a byte, or
how many lines were in vain), and else makes tables that are events. All else is a bug: another exception, a hang
(libFuzzer's -timeout), memory (its -rss_limit_mb).
"""

import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import atheris
import pyarrow as pa

with atheris.instrument_imports(include=["mmiotap.formats"]):
    from mmiotap.formats import detect
    from mmiotap.formats.compressed import Log
from mmiotap.trace.errors import MmiotapError
from mmiotap.trace.model import Mapping
from mmiotap.trace.schema import EVENTS
from mmiotap.trace.store import TraceDir

NAME = "some.log"
PLACE = re.compile(r"\b(line|byte) \d+\b|\b\d+ lines\b|: the file is empty$")


class Checked:
    """A writer that keeps nothing, and looks at everything."""

    dir = TraceDir(Path())

    def append(self, table: pa.Table) -> None:
        assert table.schema == EVENTS
        table.validate(full=True)

    def add_mappings(self, mappings: Iterable[Mapping]) -> None:
        for mapping in mappings:
            assert Mapping.from_json(mapping.to_json()) == mapping
            assert mapping.path


def one_log(data: bytes) -> None:
    try:
        for kind in detect.KINDS.values():
            kind.recognises(data)
        importer(Log(io.BytesIO(data), NAME), Checked())
    except MmiotapError as error:
        text = str(error)
        assert text.startswith(NAME), text
        assert "\n" not in text, text
        assert len(text) < 2000, len(text)
        assert PLACE.search(text), text


if __name__ == "__main__":
    importer = detect.KINDS[sys.argv.pop(1)].importer({})
    atheris.Setup(sys.argv, one_log)
    atheris.Fuzz()
