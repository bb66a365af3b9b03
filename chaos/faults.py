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

from chaos.ground import Ground

Act = Callable[[Ground, random.Random], None]
WITHIN_SECONDS = 12.0


@dataclass(frozen=True)
class Fault:
    """A fault of a round: its time (seconds after the round began), its name, and the seed of its random numbers."""

    at_s: float
    name: str
    seed: int


def draw(rng: random.Random, names: Sequence[str] = ()) -> list[Fault]:
    """Return one to three faults of a round in order of time; those in `names` instead of random ones, if given."""
    chosen = list(names) or rng.sample(sorted(FAULTS), rng.choice([1, 1, 2, 2, 3]))
    made = [Fault(round(rng.uniform(0, WITHIN_SECONDS), 1), name, rng.randrange(2**31)) for name in chosen]
    return sorted(made, key=lambda fault: fault.at_s)


def run(ground: Ground, faults: Sequence[Fault]) -> list[str]:
    """Run all faults, each in its own thread at its time. Returns the errors of the faults themselves."""
    wrong: list[str] = []

    def one(fault: Fault) -> None:
        time.sleep(fault.at_s)
        try:
            FAULTS[fault.name](ground, random.Random(fault.seed))
        except Exception as error:  # a fault that could not be caused gives no result
            wrong.append(f"{fault.name}: {error}")

    threads = [threading.Thread(target=one, args=(fault,)) for fault in faults]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


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
    "supervisor killed": _kill_supervisor,
    "two starts at once": _two_starts,
    "restart": _command("stream", "restart", "--reason", "chaos"),
    "upgrade": _command("stream", "upgrade", "--batches", "1", "--minutes", "3"),
    "snapshot": _command("checkpoint", "snapshot"),
    "prune": _prune,
    "compact": _command("checkpoint", "compact"),
    "provision": _command("provision", pipeline=False),
}
