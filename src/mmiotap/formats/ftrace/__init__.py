"""ftrace's binary form: the kernel's ring buffer, page by page, as trace_pipe_raw and trace.dat have it.

``fields`` reads what the kernel says of its records' layout, ``pages`` finds the records, ``events`` makes rows of
those that mmiotrace and markers leave.
"""
