"""Programs under probes: what ``mmiotap.launch`` and ``mmiotap.attach`` return."""
