"""Parts by several threads: in order, and not all at once."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from mmiotap.analysis.side_by_side import AHEAD, MOST, each


def test_a_slow_one_does_not_lose_its_place() -> None:
    """The first ends when the second has ended, where there are two threads."""
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            second.wait(1)
        if number == 1:
            second.set()
        return 10 * number

    assert list(each(work, range(100))) == list(range(0, 1000, 10))


def test_few_are_taken_before_what_was_made_of_them_is() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    found = each(str, items())
    for number in range(100):
        assert next(found) == str(number)
        assert len(taken) <= number + AHEAD * MOST
    found.close()  # type: ignore[attr-defined]


def test_none_is_begun_after_one_has_failed() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        list(each(work, itertools.count()))
    assert len(begun) <= 3 + AHEAD * MOST
    assert not any(one.is_alive() for one in threading.enumerate() if one.name.startswith("ThreadPool"))


def test_of_nothing_comes_nothing() -> None:
    assert list(each(str, [])) == []
