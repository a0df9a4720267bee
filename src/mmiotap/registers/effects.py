"""What reading and writing a field does: the words of each language, and ours.

Ours are those of UVM (IEEE 1800.2, access policies of uvm_reg_field), which data sheets use, too: ``W1C`` is written 1
to clear, ``RC`` is cleared by reading.
"""

from typing import NamedTuple


class Effect(NamedTuple):
    """One word as SystemRDL 2.0 says it (properties sw, onread, onwrite), which can say them all."""

    sw: str
    onread: str | None = None
    onwrite: str | None = None


EFFECTS = {
    "RO": Effect("r"),
    "RC": Effect("r", "rclr"),
    "RS": Effect("r", "rset"),
    "RW": Effect("rw"),
    "WRC": Effect("rw", "rclr"),
    "WRS": Effect("rw", "rset"),
    "WC": Effect("rw", None, "wclr"),
    "WS": Effect("rw", None, "wset"),
    "WSRC": Effect("rw", "rclr", "wset"),
    "WCRS": Effect("rw", "rset", "wclr"),
    "W1C": Effect("rw", None, "woclr"),
    "W1S": Effect("rw", None, "woset"),
    "W1T": Effect("rw", None, "wot"),
    "W0C": Effect("rw", None, "wzc"),
    "W0S": Effect("rw", None, "wzs"),
    "W0T": Effect("rw", None, "wzt"),
    "W1SRC": Effect("rw", "rclr", "woset"),
    "W1CRS": Effect("rw", "rset", "woclr"),
    "W0SRC": Effect("rw", "rclr", "wzs"),
    "W0CRS": Effect("rw", "rset", "wzc"),
    "W1CRC": Effect("rw", "rclr", "woclr"),
    "W1": Effect("rw1"),
    "WO": Effect("w"),
    "WO1": Effect("w1"),
    "WOC": Effect("w", None, "wclr"),
    "WOS": Effect("w", None, "wset"),
    "WO1C": Effect("w", None, "woclr"),
    "WO1S": Effect("w", None, "woset"),
    "WO1T": Effect("w", None, "wot"),
    "WO0C": Effect("w", None, "wzc"),
    "WO0S": Effect("w", None, "wzs"),
    "WO0T": Effect("w", None, "wzt"),
}

READS = frozenset(word for word, effect in EFFECTS.items() if "r" in effect.sw)
WRITES = frozenset(word for word, effect in EFFECTS.items() if "w" in effect.sw)

#: CMSIS-SVD's modifiedWriteValues and readAction (IP-XACT has the same) in SystemRDL's words.
SVD_WRITE = {
    "oneToClear": "woclr",
    "oneToSet": "woset",
    "oneToToggle": "wot",
    "zeroToClear": "wzc",
    "zeroToSet": "wzs",
    "zeroToToggle": "wzt",
    "clear": "wclr",
    "set": "wset",
    "modify": None,
}
SVD_READ = {"clear": "rclr", "set": "rset", "modify": "ruser", "modifyExternal": None}
#: CMSIS-SVD's access in SystemRDL's sw.
SVD_ACCESS = {"read-only": "r", "write-only": "w", "read-write": "rw", "writeOnce": "w1", "read-writeOnce": "rw1"}
#: rnndb's access in ours.
RNNDB_ACCESS = {"r": "RO", "w": "WO", "rw": "RW"}

_WORDS = {effect: word for word, effect in EFFECTS.items()}


def word(sw: str, onread: str | None = None, onwrite: str | None = None) -> str:
    """Our word for what SystemRDL says. What has none (ruser, wuser, unusual pairs) is said without the effect."""
    effect = Effect(sw, onread if "r" in sw else None, onwrite if "w" in sw else None)
    for known in (effect, effect._replace(onread=None), effect._replace(onwrite=None)):
        if known in _WORDS:
            return _WORDS[known]
    return _WORDS[Effect(sw)]
