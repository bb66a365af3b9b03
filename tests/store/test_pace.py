"""What a driver takes at once follows from how the drivers before it ended."""

from __future__ import annotations

from pathlib import Path

from headrace.contract.model import Pipeline
from headrace.store import pace, spark_conf


def test_each_end_for_want_of_memory_makes_the_next_driver_take_less_and_counts_once(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert pace.level(root, "good") == 0
    pace.slow_down(root, "good", "a", "OUT_OF_MEMORY")  # the driver itself
    pace.slow_down(root, "good", "a", "OUT_OF_MEMORY")  # the supervisor, of the same driver
    assert pace.level(root, "good") == 1
    for life in ("b", "c", "d"):
        pace.slow_down(root, "good", life, "WORKER_LOST")
    assert pace.level(root, "good") == len(pace.LEVELS) - 1, "there is a smallest level"


def test_a_stopped_pipeline_starts_with_the_usual_bounds_again(tmp_path: Path) -> None:
    pace.slow_down(str(tmp_path), "good", "a", "OUT_OF_MEMORY")
    pace.restore(str(tmp_path), "good")
    assert pace.level(str(tmp_path), "good") == 0
    pace.slow_down(str(tmp_path), "good", "b", "OUT_OF_MEMORY")
    assert pace.level(str(tmp_path), "good") == 1


def test_every_bound_falls_from_level_to_level(good: Pipeline) -> None:
    offsets = [pace.applied(good, level).driver.max_offsets_per_trigger for level in range(len(pace.LEVELS))]
    assert offsets == sorted(offsets, reverse=True)
    assert offsets[0] == good.driver.max_offsets_per_trigger
    for usual, less in zip(pace.LEVELS, pace.LEVELS[1:], strict=False):
        assert less.poll_records < usual.poll_records
        assert less.arrow_rows < usual.arrow_rows


def test_the_smallest_bound_of_offsets_is_one(good: Pipeline) -> None:
    tiny = good.model_copy(update={"driver": good.driver.model_copy(update={"max_offsets_per_trigger": 3})})
    assert pace.applied(tiny, len(pace.LEVELS) - 1).driver.max_offsets_per_trigger == 1


def test_the_usual_bounds_are_settings_of_every_driver(good: Pipeline) -> None:
    assert spark_conf.spark_conf(good, "/tmp/lake").items() >= pace.LEVELS[0].conf.items()
