"""Chaos rounds: `python -m chaos --rounds 5 --seed 7` (`make chaos ROUNDS=5 SEED=7`).

Each round draws one to three faults and their moments from the seed, lets them happen under load, waits until every query
has taken all that Kafka holds, and compares every sink. One line of JSON a round. Exit codes: 0 no difference, 1 a
difference or a platform that did not come back, 2 the program was called wrongly or could not begin.

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

CALM_SECONDS = 3.0  # of load before the faults of a round
HEAL_SECONDS = 900.0  # a deadline, not a measure
TRIGGER_SECONDS = 12.0
RELEASE_SECONDS = 20.0  # of load for each of two releases
POS = ("items", "product_totals", "tumbling", "sliding", "final_windows", "leaderboard", "archive_pos")
QUERIES = {
    "pos_sales": POS,
    "web_events": ("files", "topic", "archive_quickstart"),
    "sensors": ("history", "archive_sensor_readings"),
}


def main() -> int:
    """Run the rounds that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.split("\n\n")[1])
    parser.add_argument("--rounds", type=int, default=5, help="rounds on one platform; default 5")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's draws; default: a new one, printed")
    parser.add_argument(
        "--faults", default="", help=f"comma-separated, instead of drawn ones: {', '.join(sorted(faults.FAULTS))}"
    )
    parser.add_argument(
        "--before", type=Path, help="checkout of an older release, with its .venv: begins the platform, and ends it"
    )
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the one fault that suffices")
    parser.add_argument("--keep", action="store_true", help="keep the platform's folder after a difference")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.faults.split(",") if name.strip()]
    unknown = [name for name in names if name not in faults.FAULTS]
    if unknown:
        parser.error(f"Unknown fault {unknown[0]!r}. Known faults: {', '.join(sorted(faults.FAULTS))}")
    if asked.rounds < 1:
        parser.error("--rounds is at least 1")
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    _say({"seed": seed, "rounds": asked.rounds, "faults": names or "drawn"})
    failed = _rounds(asked.rounds, seed, names, keep=asked.keep, before=asked.before)
    if failed and not asked.no_shrink and len(failed) > 1:
        _shrink(failed, seed)
    return 1 if failed is not None else 0


def _rounds(count: int, seed: int, names: Sequence[str], *, keep: bool, before: Path | None = None) -> list[str] | None:
    """Run rounds on one new platform. Returns the names of the faults of the round that failed, None if all are exact.

    `before` is an older release: it begins the platform, this one goes on, and after the rounds the older one goes on again.
    """
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    # A release before the first one that writes time series leaves that pipeline out.
    ground = Ground(folder, [name for name in PIPELINES if not before or name != "sensors"])
    dice = random.Random(seed)
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
            drawn = faults.draw(dice, names)
            result = _round(ground, load, checker, drawn)
            _say({"round": number, "of": count, "faults": [f"{each.at_s} s: {each.name}" for each in drawn]} | result)
            if result["differences"] or result["stuck"]:
                keep = True
                _say({"folder": str(folder)})
                return [each.name for each in drawn]
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
    """Let one release run under load, then another on what it left, and compare after both. Returns whether they differ."""
    ground.end_supervisor()
    for release in (old, new):
        if release == new:
            ground.must("stream", "stop")
            ground.use(new)
            ground.must("provision")
            ground.must("stream", "start")
        time.sleep(RELEASE_SECONDS)
        stuck, found, records = _compared(ground, load, checker)
        _say(
            {
                "release": release.name,
                "records": records,
                "differences": [asdict(each) for each in found],
                "stuck": stuck,
            }
        )
        if stuck or found:
            return True
    return False


def _round(ground: Ground, load: Load, checker: check.Checker, drawn: Sequence[faults.Fault]) -> dict[str, Any]:
    """Let the faults of one round happen, wait for the platform, and compare. The load goes on afterwards."""
    began = time.monotonic()
    # An operator looks between two rounds: the restart budget of each pipeline is full again.
    for pipeline in ground.pipelines:
        ground.headrace("stream", "start", pipeline)
    time.sleep(CALM_SECONDS)
    failures = faults.run(ground, drawn)
    ground.supervise()
    stuck, found, records = _compared(ground, load, checker)
    return {
        "records": records,
        "differences": [asdict(each) for each in found],
        "stuck": stuck,
        "not_caused": failures,
        "seconds": round(time.monotonic() - began),
    }


def _compared(ground: Ground, load: Load, checker: check.Checker) -> tuple[str, list[check.Difference], int]:
    """Pause the load until every query has taken all of it. Return what is stuck, the differences, and how many records."""
    load.pause()
    try:
        stuck = _await_quiet(ground, checker)
        found, records = ([], 0) if stuck else checker.run()
    finally:
        load.resume()
    return stuck, found, records


def _await_quiet(ground: Ground, checker: check.Checker) -> str:
    """Wait until each query has taken all of its topic. Returns what it waits for if the deadline passes, else ""."""
    behind = "Kafka's ends"

    def quiet() -> bool:
        nonlocal behind
        try:
            ends = checker.ends()
        except Exception as error:  # Kafka is on its way back
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
        _wait_until(quiet, HEAL_SECONDS, "every query has taken all records")
        time.sleep(TRIGGER_SECONDS)
        _wait_until(quiet, HEAL_SECONDS, "every query has taken all records")
    except TimeoutError as error:
        status = ground.headrace("stream", "status").stdout
        return f"{error}; {behind}\n{status}"
    return ""


def _wait_until(fact: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a fact until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seconds:.0f} s passed while waiting until {what}")
        time.sleep(1)


def _shrink(names: Sequence[str], seed: int) -> None:
    """Try each fault of a failed round alone, on a new platform, and say with which the difference comes again."""
    for name in dict.fromkeys(names):
        _say({"shrinks_to": name})
        if _rounds(2, seed, [name], keep=False):
            _say({"repeat": f'python -m chaos --rounds 2 --seed {seed} --faults "{name}"'})
            return
    _say({"repeat": f'python -m chaos --rounds 2 --seed {seed} --faults "{",".join(names)}"'})


def _say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what was started ends with it
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"The chaos could not begin or go on: {error}", file=sys.stderr)
        sys.exit(2)
