"""What may change under a checkpoint and what may not: told at the start, before anything is written."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.exit_codes import Exit
from headrace.local.settings import Settings
from tests.support import actual
from tests.support.drivers import Content, Stage, make_stage
from tests.support.events import stream
from tests.support.expected import FIVE_MINUTES, Oracle, final_watermark
from tests.support.supervised import Supervised

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200), pytest.mark.long(group="platform")]

MAXIMUM = """

def _sums() -> list[Column]:
    return [F.max("amount").cast("decimal(22,2)").alias("total_amount"), F.count(F.lit(1)).alias("sales")]
"""


def _with_files(content: Content) -> None:
    content["queries"]["files"] = content["queries"].pop("items") | {"sinks": [{"kind": "files"}]}


def _make(platform: Settings, project: Path, folder: Path, changed: Content, transforms: str = "") -> Stage:
    """Make the stage, with `changed` instead of the file's values (dotted keys)."""

    def edit(content: Content) -> None:
        _with_files(content)
        for key, value in changed.items():
            *way, last = key.split(".")
            place: Any = content
            for step in way:
                place = place.setdefault(step, {})
            place[last] = value

    return make_stage(
        platform,
        project,
        folder,
        "pos_sales",
        suffix="_fp",
        queries=("tumbling", "items"),
        edit=edit,
        transforms="\n\nfiles = items\n" + transforms,
    )


def _require_exact(stage: Stage) -> None:
    oracle = Oracle(stage.pipeline.sources, {"pos_fp": stage.read("pos_fp")})
    rows = oracle.rows["pos_fp"]
    delay = stage.pipeline.queries["tumbling"].watermark["pos_fp"]
    stage.await_quiet({"tumbling": final_watermark(stage.pipeline.sources["pos_fp"], rows, delay)})
    speed = oracle.windows("pos_fp", stage.ledger("tumbling"), FIVE_MINUTES, FIVE_MINUTES)
    actual.same(actual.windows(stage.table("pos_sales_fp", "tumbling")), speed, "tumbling")
    query = stage.pipeline.queries["files"]
    wanted = sorted((row["product_id"], row["amount"]) for row in rows.values())
    actual.same(sorted(actual.row_of(query, row) for row in actual.files(stage, "files")), wanted, "files")


def _refusal(stage: Stage) -> str:
    """Start a driver that must refuse; return its sentence."""
    before = len(stage.log)
    stage.start()
    assert stage.await_end() == Exit.REFUSED, stage.log[-6000:]
    (sentence,) = [line for line in stage.log[before:].splitlines() if " ERROR " in line]
    return sentence


def test_a_change_that_the_state_cannot_take_is_refused_and_a_new_generation_is_the_way_out(
    platform: Settings, project: Path, tmp_path: Path, seed: int
) -> None:
    events = [(r.topic, r.key, r.value) for r in stream(seed, {"pos": 900}, hours=2, suffix="_fp", products=10)]
    stage = _make(platform, project, tmp_path, {})
    stages = [stage]
    try:
        stage.start()
        stage.send(events[:300])
        _require_exact(stage)
        assert stage.stop() == Exit.FINISHED
        first = stage.generation("tumbling")

        # Another aggregate, in the transform alone; other state partitions, in the file alone.
        stages.append(_make(platform, project, tmp_path, {}, MAXIMUM))
        sentence = _refusal(stages[-1])
        assert "pos_sales_fp.tumbling cannot continue from generation 1: plan changed from " in sentence
        assert "max(amount" in sentence
        stages.append(_make(platform, project, tmp_path, {"driver.state_partitions": 3}))
        sentence = _refusal(stages[-1])
        assert (
            "pos_sales_fp.tumbling cannot continue from generation 1: state_partitions changed from 2 to 3." in sentence
        )
        assert sentence.endswith(
            "Undo the change, or begin a new generation: headrace stream start pos_sales_fp --new-generation tumbling --rows keep"
        )
        assert stages[-1].generation("tumbling") == first
        assert [record["batch"] for record in stage.ledger("tumbling")] == list(range(len(stage.ledger("tumbling"))))

        # Trigger and watermark delay may change.
        safe = {"queries.tumbling.trigger": "1 second", "queries.tumbling.watermark": {"pos_fp": "20 minutes"}}
        stage = _make(platform, project, tmp_path, safe)
        stages.append(stage)
        stage.start()
        stage.send(events[300:600])
        stage.await_quiet()
        assert stage.stop() == Exit.FINISHED
        assert stage.generation("tumbling") == first
        written = _writetimes(stage)

        # A new generation of both queries, supervised: a restart of the driver does not begin a third one.
        changed = safe | {"driver.state_partitions": 3}
        stage = _make(platform, project, tmp_path, changed)
        with Supervised(stage) as keeper:
            keeper.start("tumbling", "files")
            stage.await_until(lambda: stage.generation("tumbling").number == 2, "generation 2 is begun")
            stage.await_quiet()
            keeper.signal(signal.SIGKILL)
            keeper.await_look(lambda look: look["action"]["kind"] == "START", "it is started again")
            stage.send(events[600:])
            _require_exact(stage)
            keeper.stop()
    finally:
        for created in stages:
            created.kill()
    assert stage.generation("tumbling").number == 2
    assert stage.generation("files").number == 2
    assert Path(first.paths(stage.root).checkpoint).is_dir(), "the earlier generation was touched"
    assert {path.name for path in (Path(stage.root) / "files/pos_sales_fp/files").iterdir()} == {"0001", "0002"}
    assert min(_writetimes(stage)) > max(written)
    actual.require_ledgers(stage)


def _writetimes(stage: Stage) -> list[int]:
    """Return the write times (microseconds) of all windows' totals."""
    rows = stage.table("pos_sales_fp", "tumbling", "writetime(total_amount) AS at")
    return [row["at"] for row in rows]
