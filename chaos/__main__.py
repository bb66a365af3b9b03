"""Chaos rounds: `python -m chaos --rounds 5 --seed 7` (`make chaos ROUNDS=5 SEED=7`).

Each round draws one to three faults and their times from the seed, runs them under load, waits until every query has read
all records in Kafka, and compares every sink. It prints one line of JSON per round. Exit codes: 0 no difference, 1 a
difference or a platform that did not recover, 2 wrong usage or a failed start.

`--faults "driver killed,Kafka frozen"` repeats these faults in each round; `--faults "restore; disk full"` has other faults
in each second round. After a round with a difference the program shrinks it: it tries each of the round's faults alone on
a new platform, and prints the command of the first that suffices.
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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos import check, faults, quiet, read
from chaos.ground import PIPELINES, PROJECT, Ground
from chaos.load import KNOWN_USERS, Load

CALM_SECONDS = 3.0  # load before the faults of a round
RELEASE_SECONDS = 20.0  # load for each of two releases


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
        help=f"comma-separated faults instead of random ones, semicolons between rounds: {', '.join(faults.NAMES)}",
    )
    parser.add_argument(
        "--pipelines",
        default=",".join(name for name in PIPELINES if name != "ad_attribution"),
        help=f"comma-separated pipelines of {', '.join(PIPELINES)}; default: %(default)s",
    )
    parser.add_argument(
        "--before", type=Path, help="checkout of an older release, with its .venv, which runs first and last"
    )
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a single fault that suffices")
    parser.add_argument("--keep", action="store_true", help="keep the platform's folder after a difference")
    asked = parser.parse_args()
    groups = [_words(group) for group in asked.faults.split(";") if _words(group)]
    unknown = [name for group in groups for name in group if name not in faults.NAMES]
    if unknown:
        parser.error(f"Unknown fault {unknown[0]!r}. Known faults: {', '.join(faults.NAMES)}")
    pipelines = _words(asked.pipelines)
    if not pipelines or not set(pipelines) <= set(PIPELINES):
        parser.error(f"--pipelines must name some of {', '.join(PIPELINES)}")
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    _say({"seed": seed, "rounds": asked.rounds, "faults": groups or "drawn"})
    failed = _rounds(asked.rounds, seed, groups, pipelines=pipelines, keep=asked.keep, before=asked.before)
    if failed and not asked.no_shrink and len(failed) > 1:
        _shrink(failed, seed, pipelines)
    return 1 if failed is not None else 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _rounds(
    count: int,
    seed: int,
    groups: Sequence[Sequence[str]],
    *,
    pipelines: Sequence[str],
    keep: bool = False,
    before: Path | None = None,
) -> list[str] | None:
    """Run rounds on one new platform. Returns the faults of the failed round, or None if all sinks are exact.

    `groups` are the faults of the first round, of the second and so on, and then again; empty: drawn faults.
    `before` is an older release: it runs first, then this release takes over, and after the rounds the older one runs again.
    """
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    # An older release without time series leaves that pipeline out.
    ground = Ground(folder, [name for name in pipelines if not before or name != "sensors"])
    rng = random.Random(seed)
    load: Load | None = None
    plan = [faults.draw(rng, groups[number % len(groups)] if groups else ()) for number in range(count)]
    try:
        faults.prepare(ground, plan)
        ground.use(before or PROJECT)
        ground.must("up")
        ground.must("provision")
        if "user_logins" in pipelines:
            read.rows(ground.admin, KNOWN_USERS)
        ground.must("stream", "start")
        load = Load(
            read.kafka_config(ground.admin), [topic for name in ground.pipelines for topic in PIPELINES[name]], seed
        )
        checker = check.Checker(ground.admin, ground.storage, ground.pipelines)
        if before and _changed(ground, load, checker, before, PROJECT):
            return ["change of release"]
        ground.supervise()
        for number, drawn in enumerate(plan, 1):
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
        ground.close(keep=keep)
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
        stuck, differences, records = quiet.compared(ground, load, checker)
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
    broken, failures = faults.run(ground, load, checker, drawn)
    ground.supervise()
    stuck, differences, records = quiet.compared(ground, load, checker)
    return {
        "records": records,
        "differences": [asdict(difference) for difference in differences],
        "stuck": "\n".join([*broken, *filter(None, [stuck])]),
        "not_caused": failures,
        "seconds": round(time.monotonic() - began),
    }


def _shrink(names: Sequence[str], seed: int, pipelines: Sequence[str]) -> None:
    """Try each fault of a failed round alone, on a new platform, and print the first that reproduces the difference."""
    for name in dict.fromkeys(names):
        _say({"shrinks_to": name})
        if _rounds(2, seed, [[name]], pipelines=pipelines):
            names = [name]
            break
    command = f'python -m chaos --rounds 2 --seed {seed} --pipelines {",".join(pipelines)} --faults "{",".join(names)}"'
    _say({"repeat": command})


def _say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # ends all child processes too
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"The chaos run could not start or continue: {error}", file=sys.stderr)
        sys.exit(2)
