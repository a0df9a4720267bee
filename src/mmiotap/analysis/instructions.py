"""Instructions as text."""

from iced_x86 import Decoder, Formatter, FormatterSyntax


def instruction_text(code: bytes, address: int) -> str:
    """The x86-64 instruction at an address, in Intel's syntax; ``(bad)`` and its bytes if it is none."""
    formatter = Formatter(FormatterSyntax.INTEL)
    formatter.hex_prefix, formatter.hex_suffix, formatter.uppercase_hex = "0x", "", False
    formatter.small_hex_numbers_in_decimal = False
    formatter.space_after_operand_separator = True
    formatter.rip_relative_addresses = True
    instruction = next(iter(Decoder(64, code, ip=address)), None)
    if instruction is None or instruction.is_invalid or instruction.len != len(code):
        return f"(bad) {code.hex(' ')}".rstrip()
    return formatter.format(instruction)
