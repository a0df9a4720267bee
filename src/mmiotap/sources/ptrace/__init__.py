"""The second engine: a process is traced from outside, by ptrace(2), with nothing loaded into it.

The clearest statement of kmmio's algorithm that there is; read it in this order:

* engine.py: the tracer waits for a stop, serves it, lets the thread go on;
* access.py: one access, from its fault to its end; ways.py: how the device is reached meanwhile;
* following.py: what the program does to its mappings; regions.py: what came of it;
* space.py: system calls made in the process, by which pages are armed; thread.py: one step, and whose signals wait;
* instruction.py: what an instruction does to memory;
* tracer.py, remote.py, wire.py: the engine in a process of its own, and handlers in the user's;
* rows.py, record.py: a trace is made of it. calls.py, maps.py, process.py, modules.py: what the system tells.
"""
