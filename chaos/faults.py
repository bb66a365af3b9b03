"""The faults, and how each heals. A fault takes the ground and a random number generator; it returns when it is over.

Faults that end a process end it by its id. Kafka and Cassandra are restarted by `headrace up`, drivers by the supervisor.
Commands simulate an operator at a bad moment: a refusal is a correct answer, not a failure.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from chaos import stories
from chaos.check import Checker
from chaos.ground import Ground
from chaos.load import Load

Act = Callable[[Ground, random.Random], None]
WITHIN_SECONDS = 12.0
FULL_DISK = "disk full"


@dataclass(frozen=True)
class Fault:
    """A fault of a round: its time (seconds after the round began), its name, and the seed of its random numbers."""

    at_s: float
    name: str
    seed: int


def draw(rng: random.Random, names: Sequence[str] = ()) -> list[Fault]:
    """Return one to three faults of a round in order of time; those in `names` instead of random ones, if given."""
    chosen = list(names) or rng.sample(NAMES, rng.choice([1, 1, 2, 2, 3]))
    made = [Fault(round(rng.uniform(0, WITHIN_SECONDS), 1), name, rng.randrange(2**31)) for name in chosen]
    return sorted(made, key=lambda fault: fault.at_s)


def prepare(ground: Ground, rounds: Sequence[Sequence[Fault]]) -> None:
    """Give the ground what the drawn faults need, before it starts."""
    if any(fault.name == FULL_DISK for drawn in rounds for fault in drawn):
        ground.limit_storage()


def run(ground: Ground, load: Load, checker: Checker, faults: Sequence[Fault]) -> tuple[list[str], list[str]]:
    """Run all faults, each in its own thread at its time.

    Returns what the platform did wrong while a fault lasted, and the errors of the faults themselves.
    """
    broken: list[str] = []
    wrong: list[str] = []

    def one(fault: Fault) -> None:
        time.sleep(fault.at_s)
        rng = random.Random(fault.seed)
        try:
            if fault.name in stories.STORIES:
                stories.STORIES[fault.name](ground, load, checker, rng)
            else:
                FAULTS[fault.name](ground, rng)
        except stories.BrokenError as error:
            broken.append(f"{fault.name}: {error}")
        except Exception as error:  # a fault that could not be caused gives no result
            wrong.append(f"{fault.name}: {error}")

    threads = [threading.Thread(target=one, args=(fault,)) for fault in faults]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return broken, wrong


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _freeze(processes: Sequence[psutil.Process], seconds: float) -> None:
    _signal(processes, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        _signal(processes, signal.SIGCONT)


def _driver(ground: Ground, rng: random.Random) -> list[psutil.Process]:
    return ground.driver(rng.choice(ground.pipelines))


def _jvm(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.name() == "java"]


def _kill_driver(ground: Ground, rng: random.Random) -> None:
    _signal(_driver(ground, rng), signal.SIGKILL)


def _kill_python(ground: Ground, rng: random.Random) -> None:
    _signal(_driver(ground, rng)[:1], signal.SIGKILL)


def _kill_jvm(ground: Ground, rng: random.Random) -> None:
    _signal(_jvm(_driver(ground, rng)), signal.SIGKILL)


def _freeze_driver(ground: Ground, rng: random.Random) -> None:
    _freeze(_driver(ground, rng), rng.uniform(3, 25))


def _freeze_jvm(ground: Ground, rng: random.Random) -> None:
    _freeze(_jvm(_driver(ground, rng)), rng.uniform(3, 25))


def _kill_server(name: str) -> Act:
    def act(ground: Ground, rng: random.Random) -> None:
        server = ground.server(name)
        if server:
            server.kill()
            server.wait(60)
        time.sleep(rng.uniform(0, 15))
        ground.must("up")

    return act


def _freeze_server(name: str) -> Act:
    def act(ground: Ground, rng: random.Random) -> None:
        server = ground.server(name)
        _freeze([server] if server else [], rng.uniform(2, 20))

    return act


def _slow_server(name: str) -> Act:
    """Give a server a tenth of the time: it acknowledges each write up to half a second later."""

    def act(ground: Ground, rng: random.Random) -> None:
        server = ground.server(name)
        until = time.monotonic() + rng.uniform(10, 30)
        while server and time.monotonic() < until:
            _freeze([server], 0.45)
            time.sleep(0.05)

    return act


def _fill_disk(ground: Ground, rng: random.Random) -> None:
    """Fill the disk of the storage root for a while, free it, and restart what ended, as the runbook DiskFull says."""
    if not ground.storage.is_mount():
        raise RuntimeError("the storage root has no small disk: only root can mount one")
    ballast = ground.storage / "ballast"
    until = time.monotonic() + rng.uniform(5, 30)
    try:
        with ballast.open("ab", buffering=0) as file:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    while file.write(bytes(65_536)):
                        pass
                time.sleep(0.2)
    finally:
        ballast.unlink(missing_ok=True)
    for pipeline in ground.pipelines:
        if not ground.driver(pipeline):
            ground.must("stream", "restart", pipeline, "--reason", "disk space freed")


def _kill_supervisor(ground: Ground, rng: random.Random) -> None:
    ground.end_supervisor()
    time.sleep(rng.uniform(0, 5))
    ground.supervise()


def _command(*arguments: str, pipeline: bool = True) -> Act:
    def act(ground: Ground, rng: random.Random) -> None:
        place = [rng.choice(ground.pipelines)] if pipeline else []
        ground.headrace(*arguments[:2], *place, *arguments[2:])

    return act


def _prune(ground: Ground, rng: random.Random) -> None:
    """Prune what may be pruned, as an operator who carries out the plan that was printed."""
    words = (
        "checkpoint",
        "prune",
        rng.choice(ground.pipelines),
        "--snapshot-days",
        "0",
        "--keep",
        "1",
        "--trash-days",
        "0",
    )
    planned = ground.headrace(*words, "--json")
    if planned.returncode == 0:
        ground.headrace(*words, "--act", json.loads(planned.stdout)["id"])


def _two_starts(ground: Ground, rng: random.Random) -> None:
    """Two operators start one pipeline at the same moment, in parallel to the supervisor."""
    name = rng.choice(ground.pipelines)
    pair = [threading.Thread(target=ground.headrace, args=("stream", "start", name)) for _ in range(2)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()


def _step_clock(ground: Ground, rng: random.Random) -> None:
    """Restart a driver on a clock that is up to a day slow or fast; the next start finds the right one."""
    ground.clock_step.write_text(str(rng.choice([-1, 1]) * rng.choice([90, 3_600, 86_400])))
    try:
        ground.headrace("stream", "restart", rng.choice(ground.pipelines), "--reason", "chaos")
        time.sleep(rng.uniform(5, 20))
    finally:
        ground.clock_step.unlink(missing_ok=True)


FAULTS: dict[str, Act] = {
    "driver killed": _kill_driver,
    "driver's Python killed": _kill_python,
    "driver's JVM killed": _kill_jvm,
    "driver frozen": _freeze_driver,
    "driver's JVM frozen": _freeze_jvm,
    "Kafka killed": _kill_server("kafka"),
    "Kafka frozen": _freeze_server("kafka"),
    "Cassandra killed": _kill_server("cassandra"),
    "Cassandra frozen": _freeze_server("cassandra"),
    "Kafka slow": _slow_server("kafka"),
    "Cassandra slow": _slow_server("cassandra"),
    FULL_DISK: _fill_disk,
    "supervisor killed": _kill_supervisor,
    "two starts at once": _two_starts,
    "clock stepped": _step_clock,
    "restart": _command("stream", "restart", "--reason", "chaos"),
    "upgrade": _command("stream", "upgrade", "--batches", "1", "--minutes", "3"),
    "snapshot": _command("checkpoint", "snapshot"),
    "prune": _prune,
    "compact": _command("checkpoint", "compact"),
    "provision": _command("provision", pipeline=False),
}

NAMES = sorted([*FAULTS, *stories.STORIES])
