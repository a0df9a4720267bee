"""The state of a trace in words."""

WORDS = {
    "finished": "finished",
    "recording": "recording (still running)",
    "recovered": "recovered",
    "imported": "imported",
}


def state_text(state: str, path: object) -> str:
    """What became of the recording at ``path``, and for an incomplete one the way out."""
    return WORDS.get(state) or f"incomplete: the recorder ended too early; run mmiotap recover {path}"
