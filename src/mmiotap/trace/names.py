"""Short names of mappings, and globs over their paths."""

import re

from mmiotap.trace.model import Mapping


def short_name(mapping: Mapping) -> str:
    """The last component of the mapping's path: ``uio0``, ``resource0``, ``[io_uring]``."""
    name = mapping.path.rstrip("/").rpartition("/")[2].removeprefix("anon_inode:")
    return name or "map"


def glob_matches(glob: str, mapping: Mapping) -> bool:
    """Whether a glob, by the rules of ``record --map``, matches the whole path; one without ``/`` also the short name.

    ``*`` is any run without ``/``, ``**`` any run, ``?`` one character that is not ``/``; everything else is literal.
    """
    wildcards = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    words = re.split(r"(\*\*|\*|\?)", glob)
    pattern = re.compile("".join(wildcards.get(word, re.escape(word)) for word in words), re.DOTALL)
    names = [mapping.path] if "/" in glob else [mapping.path, short_name(mapping)]
    return any(pattern.fullmatch(name) for name in names)
