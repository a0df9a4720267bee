"""Bits that changed, in few words."""

from mmiotap.views.words import printable


def change_text(ones: int, zeros: int, ones_fields: str | None, zeros_fields: str | None) -> str:
    """``+EN -MODE=3``: what became 1, and what became 0, by fields where they have names; "nothing" for neither."""
    parts = [
        f"{sign}{word or hex(bits)}"
        for sign, bits, fields in (("+", ones, ones_fields), ("-", zeros, zeros_fields))
        if bits
        for word in (fields or "").split(" ")
    ]
    return printable(" ".join(parts)) or "nothing"


def condition_text(ones: int, zeros: int, ones_fields: str | None, zeros_fields: str | None) -> str:
    """``LU !BUSY``: bits that had to be 1, and to be 0, by fields where they have names."""
    words = [word for word in (ones_fields or "").split(" ") if word]
    words += [f"!{word}" for word in (zeros_fields or "").split(" ") if word]
    return printable(" ".join(words)) or f"value & {ones | zeros:#x} == {ones:#x}"
