"""How events are stored, and nothing else: the only code that knows arena, segments and Parquet parts.

Imports nothing of the project. Light modules (``errors``, ``layout``, ``model``, ``store``, and ``arena`` until rows
are read) do not import numpy or pyarrow, because ``mmiotap record -- true`` must not pay for them.
"""
