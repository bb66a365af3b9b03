"""Chaos rounds: `python -m chaos --rounds 5 --seed 7` (`make chaos ROUNDS=5 SEED=7`).

Each round draws one to three faults and their times from the seed, runs them under load, waits until every query has read
all records in Kafka, and compares every sink. It prints one line of JSON per round. Exit codes: 0 no difference, 1 a
difference or a platform that did not recover, 2 wrong usage or a failed start.

`--faults "driver killed,Kafka frozen"` repeats these faults in each round. After a round with a difference the program
shrinks it: it tries each of the round's faults alone on a new platform, and prints the command of the first that suffices.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos import check, faults
from chaos.ground import PIPELINES, PROJECT, Ground
from chaos.load import Load

CALM_SECONDS = 3.0  # load before the faults of a round
HEAL_SECONDS = 900.0  # a deadline, not a measurement
TRIGGER_SECONDS = 12.0
RELEASE_SECONDS = 20.0  # load for each of two releases
POS = ("items", "product_totals", "tumbling", "sliding", "final_windows", "leaderboard", "archive_pos")
QUERIES = {
    "pos_sales": POS,
    "web_events": ("files", "topic", "archive_quickstart"),
    "sensors": ("history", "archive_sensor_readings"),
}


def main() -> int:
    """Run the rounds that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.split("\n\n")[1])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds on one platform; default: 5")
    parser.add_argument(
        "--seed", type=int, default=None, help="repeats the draws of a run; default: a new seed, printed"
    )
    parser.add_argument(
        "--faults",
        default="",
        help=f"comma-separated faults instead of random ones: {', '.join(sorted(faults.FAULTS))}",
    )
    parser.add_argument(
        "--before", type=Path, help="checkout of an older release, with its .venv, which runs first and last"
    )
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a single fault that suffices")
    parser.add_argument("--keep", action="store_true", help="keep the platform's folder after a difference")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.faults.split(",") if name.strip()]
    unknown = [name for name in names if name not in faults.FAULTS]
    if unknown:
        parser.error(f"Unknown fault {unknown[0]!r}. Known faults: {', '.join(sorted(faults.FAULTS))}")
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    _say({"seed": seed, "rounds": asked.rounds, "faults": names or "drawn"})
    failed = _rounds(asked.rounds, seed, names, keep=asked.keep, before=asked.before)
    if failed and not asked.no_shrink and len(failed) > 1:
        _shrink(failed, seed)
    return 1 if failed is not None else 0


def _rounds(count: int, seed: int, names: Sequence[str], *, keep: bool, before: Path | None = None) -> list[str] | None:
    """Run rounds on one new platform. Returns the faults of the failed round, or None if all sinks are exact.

    `before` is an older release: it runs first, then this release takes over, and after the rounds the older one runs again.
    """
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    # An older release without time series leaves that pipeline out.
    ground = Ground(folder, [name for name in PIPELINES if not before or name != "sensors"])
    rng = random.Random(seed)
    load: Load | None = None
    try:
        ground.use(before or PROJECT)
        ground.must("up")
        ground.must("provision")
        ground.must("stream", "start")
        admin = ground.home / "bindings" / "admin"
        load = Load(check.kafka_config(admin), [PIPELINES[name] for name in ground.pipelines], seed)
        checker = check.Checker(admin, ground.storage, ground.pipelines)
        if before and _changed(ground, load, checker, before, PROJECT):
            return ["change of release"]
        ground.supervise()
        for number in range(1, count + 1):
            drawn = faults.draw(rng, names)
            result = _round(ground, load, checker, drawn)
            _say(
                {"round": number, "of": count, "faults": [f"{fault.at_s} s: {fault.name}" for fault in drawn]} | result
            )
            if result["differences"] or result["stuck"]:
                keep = True
                _say({"folder": str(folder)})
                return [fault.name for fault in drawn]
        if before and _changed(ground, load, checker, PROJECT, before):
            return ["change back"]
        return None
    finally:
        if load:
            load.close()
        ground.close()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _changed(ground: Ground, load: Load, checker: check.Checker, old: Path, new: Path) -> bool:
    """Let one release run under load, then another on the same data, and compare after both. Returns whether they differ."""
    ground.end_supervisor()
    for release in (old, new):
        if release == new:
            ground.must("stream", "stop")
            ground.use(new)
            ground.must("provision")
            ground.must("stream", "start")
        time.sleep(RELEASE_SECONDS)
        stuck, differences, records = _compared(ground, load, checker)
        _say(
            {
                "release": release.name,
                "records": records,
                "differences": [asdict(difference) for difference in differences],
                "stuck": stuck,
            }
        )
        if stuck or differences:
            return True
    return False


def _round(ground: Ground, load: Load, checker: check.Checker, drawn: Sequence[faults.Fault]) -> dict[str, Any]:
    """Run the faults of one round, wait for the platform, and compare. The load continues afterwards."""
    began = time.monotonic()
    # An operator checks between two rounds, so the restart budget of each pipeline is full again.
    for pipeline in ground.pipelines:
        ground.headrace("stream", "start", pipeline)
    time.sleep(CALM_SECONDS)
    failures = faults.run(ground, drawn)
    ground.supervise()
    stuck, differences, records = _compared(ground, load, checker)
    return {
        "records": records,
        "differences": [asdict(difference) for difference in differences],
        "stuck": stuck,
        "not_caused": failures,
        "seconds": round(time.monotonic() - began),
    }


def _compared(ground: Ground, load: Load, checker: check.Checker) -> tuple[str, list[check.Difference], int]:
    """Pause the load until every query has read everything. Return what is stuck, the differences, and the record count."""
    load.pause()
    try:
        while True:
            stuck, ends = _await_quiet(ground, checker)
            differences, records = ([], 0) if stuck else checker.run()
            # Kafka ends a transaction that its own death interrupted at any time: then no query has read those records yet.
            if stuck or not differences or checker.ends() == ends:
                break
    finally:
        load.resume()
    return stuck, differences, records


def _await_quiet(ground: Ground, checker: check.Checker) -> tuple[str, dict[str, dict[int, int]]]:
    """Wait until each query has read its entire topic.

    Returns what is missing if the deadline passes, otherwise "", and the ends of the topics, as `Checker.ends` does.
    """
    behind = "Kafka's ends"
    ends: dict[str, dict[int, int]] = {}

    def quiet() -> bool:
        nonlocal behind, ends
        try:
            ends = checker.ends()
        except Exception as error:  # Kafka is restarting
            behind = f"Kafka's ends: {error}"
            return False
        for pipeline in ground.pipelines:
            topic = PIPELINES[pipeline]
            for query in QUERIES[pipeline]:
                taken = check.reached(ground.storage, pipeline, query, topic)
                if any(taken.get(partition, 0) < end for partition, end in ends[topic].items()):
                    behind = f"{pipeline}.{query}: {taken} of {ends[topic]}"
                    return False
        return True

    try:
        # Twice: a batch without data follows the last one and closes windows.
        _wait_until(quiet, HEAL_SECONDS, "every query has read all records")
        time.sleep(TRIGGER_SECONDS)
        _wait_until(quiet, HEAL_SECONDS, "every query has read all records")
    except TimeoutError as error:
        status = ground.headrace("stream", "status").stdout
        return f"{error}; {behind}\n{status}", ends
    return "", ends


def _wait_until(fact: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a condition until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seconds:.0f} s passed while waiting until {what}")
        time.sleep(1)


def _shrink(names: Sequence[str], seed: int) -> None:
    """Try each fault of a failed round alone, on a new platform, and print the first that reproduces the difference."""
    for name in dict.fromkeys(names):
        _say({"shrinks_to": name})
        if _rounds(2, seed, [name], keep=False):
            _say({"repeat": f'python -m chaos --rounds 2 --seed {seed} --faults "{name}"'})
            return
    _say({"repeat": f'python -m chaos --rounds 2 --seed {seed} --faults "{",".join(names)}"'})


def _say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # ends all child processes too
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"The chaos run could not start or continue: {error}", file=sys.stderr)
        sys.exit(2)
