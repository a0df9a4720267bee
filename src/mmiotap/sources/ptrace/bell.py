"""How other Python threads get the attention of the one that waits for the program.

waitpid(2) waits for children and tracees and for nothing else. So the bell is a child: whoever rings it lets it run for
a moment and stops it again, and that stop is what waitpid returns.
"""

import os
import signal


class Bell:
    """A child that does nothing. Made, waited for, and removed by the Python thread that waits.

    It reads from a pipe that we never write to, so it ends when we do, whatever ends us; if it is stopped then, the
    kernel hangs it up, for its process group is its own.
    """

    def __init__(self) -> None:
        theirs, self._ours = os.pipe()
        self.pid = os.posix_spawnp(
            "cat",
            ["cat"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(theirs)

    def ring(self) -> None:
        """By any thread. A ring that comes while another was not heard yet is heard with it."""
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGSTOP)

    def remove(self) -> None:
        os.close(self._ours)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
