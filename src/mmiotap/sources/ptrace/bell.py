"""How other Python threads get the attention of the one that waits for the program.

waitpid(2) waits for children and tracees and for nothing else. So the bell is a child: whoever rings it lets it run for
a moment and stops it again, and that stop is what waitpid returns.
"""

import os
import signal


class Bell:
    """A child that does nothing. Made, waited for, and removed by the Python thread that waits."""

    def __init__(self) -> None:
        self.pid = os.posix_spawnp(
            "sleep", ["sleep", "infinity"], os.environ, setsigmask=[], setsigdef=[signal.SIGCHLD], setpgroup=0
        )

    def ring(self) -> None:
        """By any thread. A ring that comes while another was not heard yet is heard with it."""
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGSTOP)

    def remove(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
