"""The keeper of a local driver: starts it, and starts it again after a transient end, within a budget.

`python -m headrace.operations.keeper DRIVER_ARGUMENTS...` runs `python DRIVER_ARGUMENTS...` as its child, one at a time.
It restarts after a transient error or a kill, waits longer each time (with jitter, so that four drivers do not start
at once), and gives up when the budget is spent. An end that a restart cannot mend is passed on as it is.
"""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType

from headrace.contract.exits import Exit

log = logging.getLogger("headrace.keeper")


@dataclass
class Budget:
    """How often a driver may be restarted: `restarts` in a row; a run of `stable_seconds` gives them all back."""

    restarts: int = 8
    stable_seconds: float = 600
    first_wait_seconds: float = 1
    longest_wait_seconds: float = 30
    used: int = field(default=0, init=False)

    def wait_after(self, ran_seconds: float, dice: random.Random) -> float | None:
        """Return how many seconds to wait before the next start, or None if the budget is spent."""
        if ran_seconds >= self.stable_seconds:
            self.used = 0
        if self.used >= self.restarts:
            return None
        longest = min(self.longest_wait_seconds, self.first_wait_seconds * 2**self.used)
        self.used += 1
        return dice.uniform(longest / 2, longest)


def restartable(code: int) -> bool:
    """Return whether a driver that ended with `code` may be started again: a transient fault, or a signal killed it."""
    return code == Exit.TRANSIENT or code < 0 or code > 128


def keep(arguments: list[str], budget: Budget) -> int:
    """Run the driver until it ends for good or this process gets SIGTERM. Returns the driver's last exit code."""
    stop = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def tell(number: int, frame: FrameType | None) -> None:
        stop.set()
        if child is not None and child.poll() is None:
            child.terminate()

    signal.signal(signal.SIGTERM, tell)
    signal.signal(signal.SIGINT, tell)
    while True:
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, *arguments])
        if stop.is_set():
            child.terminate()
        code = child.wait()
        ran = time.monotonic() - began
        if stop.is_set() or not restartable(code):
            log.info("driver ended with %s after %.0f s", _name(code), ran)
            return code if code >= 0 else 128 - code
        wait = budget.wait_after(ran, random.Random())  # noqa: S311 - jitter, not a secret
        if wait is None:
            log.error(
                "driver ended with %s after %.0f s; restart budget of %d spent", _name(code), ran, budget.restarts
            )
            return code if code >= 0 else 128 - code
        log.warning(
            "driver ended with %s after %.0f s; restart %d of %d in %.1f s",
            _name(code),
            ran,
            budget.used,
            budget.restarts,
            wait,
        )
        stop.wait(wait)
        if stop.is_set():
            return Exit.FINISHED


def _name(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    names = {exit_code.value: exit_code.name for exit_code in Exit}
    return names.get(code, f"exit code {code}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    sys.exit(keep(sys.argv[1:], Budget()))
