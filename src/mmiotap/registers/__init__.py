"""What the places that a driver accesses are called: registers, fields, and what their values mean.

Every description, whatever its language, becomes systemrdl-compiler's elaborated tree (:mod:`tree`), which is flattened
once into a list of :class:`model.Register` and from there into numpy tables (:mod:`tables`). Those decode the events of
a trace, a batch at a time (:mod:`decode`).
"""
