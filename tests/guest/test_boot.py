"""The comparison that the ground truth tests rest on: it must find every kind of disagreement."""

from pathlib import Path

import pytest
from boot import Access, accesses, first_difference

A = [Access("write", 0x14, 4, 1), Access("read", 0x8, 4, 7), Access("read", 0x14, 4, 17), Access("read", 0x8, 4, 7)]
B = [Access("read", 0x8, 4, 7), Access("write", 0x5200, 4, 9), Access("read", 0x8, 4, 7)]


@pytest.mark.parametrize("order", ["AAAABBB", "BBBAAAA", "ABABABA", "BAAABAB", "AABBBAA"])
def test_every_interleaving_is_accepted(order: str) -> None:
    threads = {"A": iter(A), "B": iter(B)}
    assert first_difference([next(threads[name]) for name in order], [A, B]) is None


@pytest.mark.parametrize(
    "log",
    [
        A + B[:-1],  # one access is missing
        [*A, *B, B[0]],  # one too many
        [A[0], A[2], A[1], A[3], *B],  # two of one thread swapped
        [A[0]._replace(value=2), *A[1:], *B],  # another value
        [A[0]._replace(width=2), *A[1:], *B],  # another width
        [A[0]._replace(kind="read"), *A[1:], *B],  # another direction
    ],
)
def test_every_disagreement_is_found(log: list[Access]) -> None:
    assert first_difference(log, [A, B]) is not None


def test_log_lines_of_one_region_are_taken(tmp_path: Path) -> None:
    (tmp_path / "qemu.log").write_text(
        "memory_region_ops_write cpu 0 mr 0x5619eb8a4d90 addr 0xcf8 value 0x80e10008 size 4 name 'pci-conf-idx'\n"
        "memory_region_ops_read cpu 1 mr 0x5619ecb94010 addr 0xfea20008 value 0x80080783 size 4 name 'e1000-mmio'\n"
    )
    assert accesses(tmp_path, "e1000-mmio", 128 * 1024) == [Access("read", 0x8, 4, 0x80080783)]
