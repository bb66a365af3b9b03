"""Two starts of one driver at the same time, on the stub API: the fixed pod name is the fence."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from headrace.operations.drivers.interface import StartSpec
from tests.support.stub_kubernetes import NAME, POD, StubApi, launcher_on


@pytest.mark.slow
def test_a_hundred_races_of_two_starts_never_make_two_drivers(
    project: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow: two hundred processes stand for spark-submit, 30 s on two busy cores."""
    monkeypatch.setattr("headrace.operations.drivers.kubernetes.POLL_SECONDS", 0.02)
    monkeypatch.setattr("headrace.operations.drivers.pods.POLL_SECONDS", 0.02)
    with StubApi(tmp_path) as api:
        _race(api, project, random.Random(seed))


def _race(api: StubApi, project: Path, draw: random.Random) -> None:
    launcher = launcher_on(api, project)
    launcher.find(NAME)
    launcher.command(NAME, StartSpec(), "warm")
    for race in range(100):
        api.pods.clear()
        api.created.clear()
        old = draw.choice(["none", "none", "Succeeded", "Failed", "leaving"])
        api.ending = draw.random() * 0.05 if old == "leaving" else 0
        if old != "none":
            api.plant(POD)
            if old == "leaving":
                api.delete(POD, {"gracePeriodSeconds": 30})
            else:
                api.end(POD, old)
        api.most_living = 0
        before = len(api.created)
        submitted: list[tuple[str, bool]] = []

        def one(pause: float, submitted: list[tuple[str, bool]] = submitted) -> None:
            time.sleep(pause)
            driver, new = launcher.submit(NAME)
            submitted.append((driver.identity, new))

        threads = [threading.Thread(target=one, args=(draw.random() * 0.06,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(submitted) == 2, f"race {race} ({old})"
        assert len({identity for identity, _ in submitted}) == 1, f"race {race} ({old})"
        assert sorted(new for _, new in submitted) == [False, True], f"race {race} ({old})"
        assert len(api.created) - before == 1, f"race {race} ({old})"
        assert api.most_living == 1, f"race {race} ({old})"
