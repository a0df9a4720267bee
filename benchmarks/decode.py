"""Naming registers and fields: events a second on one core, against a Python loop that takes one event after the other.

The events are those of the recorded e1000, over and over, in tables of as many rows as a reader gives. The loop looks
the register up in a dict and goes through its fields. Both say the same, which is checked. Seconds are the processor's.
"""

import io
import lzma
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.result import Result
from mmiotap.formats.mmiotrace import import_log
from mmiotap.registers.decode import COLUMNS, Binding, Decoder
from mmiotap.registers.load import Wanted, load
from mmiotap.registers.model import Description, Register
from mmiotap.trace.reader import BATCH_ROWS, open_trace

LOG = Path(__file__).parents[1] / "tests" / "data" / "mmiotrace-e1000.log.xz"
GOAL = 5_000_000
BATCHES = 24
LOOP_ROWS = 1 << 15
ROUNDS = 5


def run() -> list[Result]:
    """Medians of some rounds, on one core."""
    description = load(Wanted.parse("e1000"))
    decoder = Decoder([Binding(description, 1, 0)])
    table = _events()
    loop_table = table.slice(0, LOOP_ROWS)
    named = decoder.decode(loop_table)
    said = list(zip(named.register.to_pylist(), named.fields.to_pylist(), strict=True))
    assert said == _loop(description, loop_table)
    other = table.set_column(table.schema.get_field_index("value"), "value", _any_values(table.num_rows))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        rates, ratios, worst = [], [], []
        for _ in range(ROUNDS):
            rates.append(BATCHES * table.num_rows / _seconds(decoder, table, BATCHES))
            began = time.process_time()
            _loop(description, loop_table)
            ratios.append(rates[-1] / (LOOP_ROWS / (time.process_time() - began)))
            worst.append(table.num_rows / _seconds(decoder, other, 1))
    finally:
        os.sched_setaffinity(0, cores)
    rate = statistics.median(rates)
    return [
        Result("naming registers and fields, events a second", f"≥ {GOAL}", rate, "", rate >= GOAL),
        Result("the same, against a Python loop over the events", "", statistics.median(ratios), "", True),
        Result("the same if no two values are alike", "", statistics.median(worst), "", True),
    ]


def _events() -> pa.Table:
    with tempfile.TemporaryDirectory() as folder, io.BytesIO(lzma.decompress(LOG.read_bytes())) as log:
        import_log(log, "log", Path(folder) / "trace", force=True)
        once = open_trace(Path(folder) / "trace").events(COLUMNS)
    return pa.concat_tables([once] * (BATCH_ROWS // once.num_rows + 1)).slice(0, BATCH_ROWS).combine_chunks()


def _any_values(rows: int) -> Any:
    return pa.array(np.random.default_rng(0).integers(0, 2**32, rows, dtype=np.uint64))


def _seconds(decoder: Decoder, table: pa.Table, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        decoder.decode(table)
    return time.process_time() - began


def _loop(description: Description, table: pa.Table) -> list[tuple[str | None, str | None]]:
    registers = {
        one.offset + index * one.width: (f"{one.name}[{index}]" if one.counts else one.name, one)
        for one in description.registers
        for index in range(one.elements)
    }
    found: list[tuple[str | None, str | None]] = []
    for kind, offset, value in zip(*(table[name].to_pylist() for name in ("kind", "offset", "value")), strict=True):
        name, register = registers.get(offset, (None, None))
        if kind not in ("read", "write") or register is None:
            found.append((None, None))
        else:
            found.append((name, " ".join(_fields(register, value)) or None))
    return found


def _fields(register: Register, value: int) -> Sequence[str]:
    texts, rest = [], value
    for field in register.fields:
        bits = value >> field.lsb & (1 << field.width) - 1
        rest &= ~(bits << field.lsb)
        if bits and field.width < 8 * register.width:
            shown = field.values.get(bits) or (str(bits) if bits < 10 else hex(bits))
            texts.append(field.name if field.width == 1 and bits not in field.values else f"{field.name}={shown}")
    return [*texts, f"?={rest if rest < 10 else hex(rest)}"] if rest else texts
