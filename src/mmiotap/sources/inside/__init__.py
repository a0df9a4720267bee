"""The agent is brought into a process that runs, and out of its way again: what `mmiotap attach --engine agent` does.

* held.py: all threads of the process stand still, and go on a little until they stand where they may;
* calling.py: a function of the process is called in one of them; borrowed.py: memory and descriptors for that;
* places.py: where a thread may call which functions; symbols.py: where they are;
* loading.py: the agent is loaded, joins a recording, leaves it (agent/src/attach.rs is its other half);
* record.py: a recording around all this.
"""
