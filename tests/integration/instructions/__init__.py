"""A differential test of the agent: every instruction with a memory operand, on plain memory and on a traced mapping.

``table`` lists the cases, ``program`` writes them as assembly for ``runner.c``, ``expected`` says which rows a trace
must hold.
"""
