"""Short names of mappings, and globs over their paths."""

import functools
import re

from mmiotap.trace.model import Mapping


def short_name(mapping: Mapping) -> str:
    """The last component of the mapping's path: ``uio0``, ``resource0``, ``[io_uring]``."""
    name = mapping.path.rstrip("/").rpartition("/")[2].removeprefix("anon_inode:")
    return name or "map"


def rule_selects(rule: str, path: str) -> bool:
    """Whether a rule of ``record --map`` selects this path, all of it.

    ``*`` is any run without ``/``, ``**`` any run, ``?`` one character that is not ``/``; everything else is literal.
    """
    return _pattern(rule).fullmatch(path) is not None


def glob_matches(glob: str, mapping: Mapping) -> bool:
    """Whether a glob, by the rules of ``record --map``, matches the path, or without ``/`` the short name or device."""
    names = [mapping.path] if "/" in glob else [mapping.path, short_name(mapping), mapping.device or ""]
    return any(rule_selects(glob, name) for name in names)


@functools.lru_cache
def _pattern(glob: str) -> re.Pattern[str]:
    wildcards = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    words = re.split(r"(\*\*|\*|\?)", glob)
    return re.compile("".join(wildcards.get(word, re.escape(word)) for word in words), re.DOTALL)
