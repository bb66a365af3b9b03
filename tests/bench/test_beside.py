"""The bench's harness: a wrong run ends it, and rounds of another commit are not added to a result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from bench import beside, java_peers, measure, oracle
from headrace.access.bindings import KafkaBinding
from headrace.local.settings import Settings

LOAD = beside.Load("bench_large", oracle.table(1_000))
EMPTY = pa.table(
    {"partition_": pa.array([], pa.int64()), "offset_": pa.array([], pa.int64()), "value": pa.array([], pa.string())}
)
BENCH = beside.Bench(cast("Settings", None), cast("KafkaBinding", None), cast("java_peers.JavaPeers", None), LOAD, LOAD)


def peer(**report: Any) -> measure.Peer:
    """Return a stand-in that reports at once, for a cost of nothing."""
    return cast("measure.Peer", SimpleNamespace(load=lambda *_what: (report, measure.Cost(0.0, 0.0, 0.0))))


def test_a_process_that_reports_other_sums_ends_the_bench() -> None:
    right = oracle.totals(LOAD.loaded)
    assert BENCH.drain(peer(**right), "parse", LOAD)[0] == "events, cents, seconds equal"
    with pytest.raises(SystemExit, match="parse is wrong, its figures do not count"):
        BENCH.drain(peer(**right | {"cents": 1}), "parse", LOAD)


@pytest.mark.parametrize("name", [name for name, engine in beside.ENGINES.items() if engine.output])
def test_an_engine_that_writes_nothing_to_its_topic_ends_the_bench(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "ends", lambda _topic, _binding: {0: 0})
    monkeypatch.setattr(oracle, "read", lambda _topic, _starts, _binding: EMPTY)
    with pytest.raises(SystemExit, match=f"{name} is wrong"):
        BENCH.drain(peer(events=LOAD.events), name, LOAD)


def test_each_engine_that_writes_has_a_topic_that_no_other_engine_writes() -> None:
    topics = [engine.output for engine in beside.ENGINES.values() if engine.output]
    assert len(set(topics)) == len(topics)
    assert all(engine.output for engine in beside.ENGINES.values() if engine.workload != beside.READ)


def test_the_quick_form_is_a_million_events_once_with_the_floor_and_without_the_peers() -> None:
    options = beside._options(["--quick"])
    assert (options.events, options.rounds, options.small) == (1_000_000, 1, True)
    assert {"parse", "ours_items", "ours_windows", "spark_noop"} <= set(options.engines)
    assert not {"kafka_streams", "flink", "textbook", "as_written"} & set(options.engines)
    assert beside._options([]).engines == list(beside.ENGINES)


def test_rounds_are_added_to_a_result_of_the_same_commit_and_size_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_commit", lambda: "abc1234")
    kept = {"commit": "abc1234", "events": 5, "rounds": [{"round": 1, "runs": [], "small": None}]}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    into = ["--into", str(tmp_path / "kept.json")]
    assert beside._earlier(beside._options(["--events", "5", *into])) == kept
    assert beside._earlier(beside._options(["--events", "5"]))["rounds"] == []
    with pytest.raises(SystemExit, match="another number of events"):
        beside._earlier(beside._options(["--events", "6", *into]))
    monkeypatch.setattr(beside, "_commit", lambda: "def5678")
    with pytest.raises(SystemExit, match="another commit"):
        beside._earlier(beside._options(["--events", "5", *into]))


def test_a_topic_of_another_name_is_read_as_the_pipelines_own(tmp_path: Path) -> None:
    from bench import spark_peers

    pipeline = spark_peers.reading("bench_small", tmp_path)
    assert list(pipeline.sources) == ["bench_small"]
    assert all(query.sources == ["bench_small"] for query in pipeline.queries.values())
