"""Names of instruction addresses in processes that run, or ran a moment ago."""

import threading
from collections.abc import Callable, Iterable

from mmiotap.analysis.symbols import Symbols
from mmiotap.trace.model import Module, Process


class LiveNames:
    """Called with a pid and an address, gives its name as :class:`~mmiotap.analysis.symbols.Symbols` does.

    What a recording tells of modules is learned; for an address in none of those, ``find`` is asked for the modules
    that the process has now. For any number of threads.
    """

    def __init__(self, find: Callable[[int], Iterable[Module]]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._modules: list[Module] = []
        self._processes: list[Process] = []
        self._symbols = Symbols([])
        self._asked: set[tuple[int, int]] = set()

    def learn(self, modules: Iterable[Module], processes: Iterable[Process]) -> None:
        """These are, or were, there."""
        with self._lock:
            self._learn(modules, processes)

    def __call__(self, pid: int, pc: int) -> str:
        with self._lock:
            [name] = self._symbols.names([pid], [pc])
            if name == f"{pc:#x}" and (pid, pc) not in self._asked:
                self._asked.add((pid, pc))
                self._learn(self._find(pid), [])
                [name] = self._symbols.names([pid], [pc])
            return name

    def _learn(self, modules: Iterable[Module], processes: Iterable[Process]) -> None:
        known = len(self._modules), len(self._processes)
        self._modules = list(dict.fromkeys([*self._modules, *modules]))
        self._processes = list(dict.fromkeys([*self._processes, *processes]))
        if known != (len(self._modules), len(self._processes)):
            self._symbols = Symbols(self._modules, self._processes)
