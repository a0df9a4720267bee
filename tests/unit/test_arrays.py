"""Numbers for distinct rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmiotap.trace.arrays import distinct, mixed


def test_two_rows_that_mix_to_the_same_number() -> None:
    """Made so on purpose: what one column changes, the next one makes good."""
    first, then = np.array([0, 0], np.uint64), np.array([0, 8], np.uint64)
    so_far = mixed(first, then)
    last = np.array([0, so_far[0] ^ so_far[1]], np.uint64)
    assert len(set(mixed(first, then, last).tolist())) == 1
    number, where = distinct(first, then, last)
    assert (number.tolist(), where.tolist()) == ([0, 1], [0, 1])


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 1))))
def test_numbers_follow_first_appearance(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(3)]
    number, first = distinct(*columns)
    known = list(dict.fromkeys(rows))
    assert number.tolist() == [known.index(row) for row in rows]
    assert first.tolist() == [rows.index(row) for row in known]


def test_collided_rows_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmiotap.trace.arrays.mixed", lambda *columns: np.zeros(len(columns[0]), np.uint64))
    number, first = distinct(np.array([5, 3, 5, 4], np.uint64), np.zeros(4, np.uint64))
    assert (number.tolist(), first.tolist()) == ([0, 1, 0, 2], [0, 1, 3])
