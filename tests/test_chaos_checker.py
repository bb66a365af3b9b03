"""The checker of `make chaos` can fail: it names planted differences, and imports nothing of the product."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from chaos import read, sinks
from chaos.check import Checker
from chaos.faults import FAULTS
from chaos.load import USERS
from headrace.cli.app import app


def test_the_checker_sees_what_is_lost_doubled_and_changed() -> None:
    """A checker that cannot fail proves nothing: three planted faults in one comparison."""
    checker = Checker(Path(), Path(), [])
    wanted = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('c', '3'), ('d', '4')) AS t(k, v)"
    present = "SELECT * FROM (VALUES ('a', '1'), ('b', '2'), ('b', '2'), ('c', '9'), ('e', '5')) AS t(k, v)"
    comparison = checker.compare("planted", wanted, present)
    assert (comparison.lost, comparison.doubled, comparison.wrong) == (1, 1, 2)
    assert "c: 9 instead of 3" in comparison.examples
    repeated = checker.compare("planted", wanted, present, repeats=True)
    assert (repeated.lost, repeated.doubled, repeated.wrong) == (1, 0, 2)


def test_rows_of_an_older_generation_are_due_until_the_new_one_writes_their_key() -> None:
    checker = Checker(Path(), Path(), [])
    old, new = "SELECT * FROM (VALUES ('a', 1), ('b', 2)) AS t(k, v)", "SELECT 'b' AS k, 7 AS v"

    def bad(sink: str, wanted: str, present: str) -> tuple[int, int, int]:
        outcome = checker.compare(sink, wanted, present, stays="" if "files" in sink else "value")
        return outcome.lost, outcome.doubled, outcome.wrong

    for sink in ("pos totals", "pos files", "web totals"):
        assert bad(sink, old, old) == (0, 0, 0)
    checker.begin_again("pos")
    assert bad("pos totals", new, "SELECT * FROM (VALUES ('a', '1'), ('b', '7')) AS t(k, v)") == (0, 0, 0)
    assert bad("pos totals", new, new) == (1, 0, 0), "the row that stays is lost"
    assert bad("pos totals", new, old) == (0, 0, 1), "the row that was written again has its old value"
    assert bad("pos files", new, new) == (0, 0, 0), "a new directory begins empty"
    assert bad("web totals", old, new) == (1, 0, 1), "another pipeline began nothing"


def test_the_lines_of_a_restored_file_sink_are_those_up_to_each_cut_and_then_the_new_ones(tmp_path: Path) -> None:
    def directory(generation: str, name: str) -> None:
        folder = tmp_path / "files" / "p" / "q" / generation / name
        folder.mkdir(parents=True)
        (folder / "part-0").write_text(f"{generation} {name}\n")

    for number, lineage in (("0001", []), ("0002", [[1, 4]])):
        folder = tmp_path / "checkpoints" / "p" / "q" / number
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"lineage": lineage}))
    (tmp_path / "checkpoints" / "p" / "q" / "0003").mkdir()  # a restore that was not finished
    for name in ("batch_id=0-2", "batch_id=1", "batch_id=3", "batch_id=4", "batch_id=5"):
        directory("0001", name)
    directory("0002", "batch_id=5")
    assert sorted(read.lines(tmp_path, "p", "q")) == [
        "0001 batch_id=0-2",
        "0001 batch_id=3",
        "0001 batch_id=4",
        "0002 batch_id=5",
    ]


class _Planted(Checker):
    """A checker of rows instead of a platform: topics as JSON rows (part 0, offsets from 0) and tables as rows."""

    def __init__(
        self, pipeline: str, topics: dict[str, list[dict[str, Any]]], tables: dict[str, list[tuple[Any, ...]]]
    ) -> None:
        super().__init__(Path(), Path("/nowhere"), [pipeline])
        self.topics, self.tables = topics, tables

    def load(self, topic: str) -> None:
        self.db.execute(f"CREATE OR REPLACE TABLE {topic} (part INT, off INT, text VARCHAR, kind VARCHAR, id VARCHAR)")
        for offset, row in enumerate(self.topics[topic]):
            origin = f"{next(iter(self._topics))}/0/{offset}"
            self.db.execute(f"INSERT INTO {topic} VALUES (0, ?, ?, 'good', ?)", (offset, json.dumps(row), origin))

    def table(self, name: str, statement: str, columns: tuple[str, ...]) -> None:
        self.db.execute(f"CREATE OR REPLACE TABLE {name} ({', '.join(f'{column} VARCHAR' for column in columns)})")
        for row in self.tables[name]:
            self.db.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)

    def differences(self, pipeline: str) -> dict[str, tuple[int, int, int]]:
        for topic in self._topics:
            self.load(topic)
        return {d.sink: (d.lost, d.doubled, d.wrong) for d in sinks.SINKS[pipeline](self)}


MIDNIGHT_MS = 1_767_225_600_000  # 2026-01-01 in UTC


def _batch(offsets: dict[str, dict[str, tuple[int, int]]], late_minute: int, closed_minute: int) -> dict[str, Any]:
    late_ms, closed_ms = (MIDNIGHT_MS + minute * 60_000 for minute in (late_minute, closed_minute))
    return {"batch": 0, "offsets": offsets, "late_watermark_ms": late_ms, "watermark_ms": closed_ms}


def test_sales_are_due_as_rows_totals_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    sold = [("p", "1.50", 3), ("p", "-0.25", 4), ("q", "2.00", 11)]
    sales: list[dict[str, Any]] = [
        {"product_id": product, "amount": amount, "create_date": f"2026-01-01 00:{minute:02}:00.000"}
        for product, amount, minute in sold
    ]
    monkeypatch.setattr(read, "ledger", lambda *_: [_batch({"pos": {"0": (0, 3)}}, 0, 10)])
    totals: list[tuple[Any, ...]] = [("p", "1.25", "2"), ("q", "2.00", "1")]
    tumbling = [("2026-01-01 00:00:00.000", *totals[0]), ("2026-01-01 00:10:00.000", *totals[1])]
    before = [("2025-12-31 23:55:00.000", *totals[0]), ("2026-01-01 00:05:00.000", *totals[1])]
    tables: dict[str, list[tuple[Any, ...]]] = {
        "product_totals": totals,
        "leaderboard": totals[:1],
        "tumbling": tumbling,
        "sliding": [*tumbling, *before],
    }
    closed: dict[str, Any] = {
        "window_start": "2026-01-01 00:00:00",
        "product_id": "p",
        "total_amount": "1.25",
        "sales": 2,
    }
    topics = {"pos": sales, "pos_items": sales, "pos_final_windows": [closed]}
    bad = _Planted("pos_sales", topics, tables).differences("pos_sales")
    assert bad == dict.fromkeys(bad, (0, 0, 0)) | {"pos_sales leaderboard": (1, 0, 0)}
    assert len(bad) == 6


def test_events_are_due_on_the_topic_and_in_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [{"city": f"City {n}", "domain": "d", "event": "buy"} for n in range(2)]
    rows = [{"lower_city": f"city {n}", "behavior": "d:buy"} for n in range(2)]
    monkeypatch.setattr(read, "lines", lambda *_: [json.dumps(row) for row in rows[:1]])
    bad = _Planted("web_events", {"quickstart": events, "transformed": rows}, {}).differences("web_events")
    assert bad == {"web_events transformed": (0, 0, 0), "web_events files": (1, 0, 0)}


def test_readings_are_due_as_rows() -> None:
    readings = [{"sensor_id": "s", "read_at": f"2026-01-01 00:00:0{n}.000", "celsius": f"{n}.50"} for n in range(2)]
    rows = [("s", "2026-01-01 00:00:00.000", "0.50")]
    bad = _Planted("sensors", {"sensor_readings": readings}, {"readings": rows}).differences("sensors")
    assert bad == {"sensors history": (1, 0, 0)}


def test_an_impression_is_due_with_its_clicks_in_time_and_without_one_only_after_the_watermark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(minute: int, second: int = 0) -> str:
        return f"2026-01-01 00:{minute:02}:{second:02}.000"

    shown = [
        {"uuid": name, "create_date": at(minute), "ad_id": "a"} for name, minute in (("x", 10), ("y", 11), ("z", 30))
    ]
    clicked = [
        {"uuid": "x", "create_date": at(15)},
        {"uuid": "x", "create_date": at(15, 1)},
        {"uuid": "y", "create_date": at(9)},
    ]
    x = ("x", at(10), "a", "2026-01-01T00:15:00.000000", at(15))
    y = ("y", at(11), "a", "none", "None")
    columns = ("impr_uuid", "impr_date", "ad_id", "click_key", "click_date")
    offsets = {"impressions": {"0": (0, 3)}, "clicks": {"0": (0, 3)}}
    batch = _batch(offsets, 0, 20)
    monkeypatch.setattr(read, "ledger", lambda *_: [batch])
    monkeypatch.setattr(read, "is_restored", lambda *_: False)

    def bad(*rows: tuple[str, ...]) -> dict[str, tuple[int, int, int]]:
        records: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows]
        records = [row | {"click_date": None if row["click_date"] == "None" else row["click_date"]} for row in records]
        topics = {"impressions": shown, "clicks": clicked, "attributed": records}
        return _Planted("ad_attribution", topics, {"attributions": list(rows)}).differences("ad_attribution")

    exact, missing, spurious = (0, 0, 0), (1, 0, 0), (0, 0, 1)
    assert bad(x, y) == {"ad_attribution table": exact, "ad_attribution attributed": exact}
    assert bad(y) == {"ad_attribution table": missing, "ad_attribution attributed": missing}
    assert bad(x) == {"ad_attribution table": missing, "ad_attribution attributed": missing}
    early = ("z", at(30), "a", "none", "None")
    assert bad(x, y, early) == {"ad_attribution table": spurious, "ad_attribution attributed": spurious}
    beside = ("x", at(10), "a", "none", "None")
    assert bad(x, y, beside) == {"ad_attribution table": spurious, "ad_attribution attributed": spurious}
    monkeypatch.setattr(read, "is_restored", lambda *_: True)
    assert bad(x, y, beside) == {"ad_attribution table": exact, "ad_attribution attributed": exact}
    monkeypatch.setitem(batch, "late_watermark_ms", MIDNIGHT_MS + 12 * 60_000)
    assert bad() == {"ad_attribution table": exact, "ad_attribution attributed": exact}, (
        "all impressions but z are late"
    )


def test_a_known_user_has_its_newest_login_and_an_unknown_one_no_row() -> None:
    logins = [
        {"login_id": "u1", "login_at": "2026-01-01 00:00:02.000", "device": "ios"},
        {"login_id": "u1", "login_at": "2026-01-01 00:00:01.000", "device": "web"},
    ]
    rows = [(f"u{n}", f"User {n}", "None", "None") for n in range(USERS)]
    rows[1] = ("u1", "User 1", "2026-01-01 00:00:02.000", "ios")

    def bad(*rows: tuple[str, ...]) -> tuple[int, int, int]:
        checker = _Planted("user_logins", {"logins": logins}, {"users": list(rows)})
        return checker.differences("user_logins")["user_logins users"]

    assert bad(*rows) == (0, 0, 0)
    assert bad(*rows[:-1]) == (1, 0, 0)
    assert bad(*rows, ("u99", "None", "2026-01-01 00:00:02.000", "ios")) == (0, 0, 1)
    rows[1] = ("u1", "User 1", "2026-01-01 00:00:01.000", "web")
    assert bad(*rows) == (0, 0, 1)


def test_the_checker_and_its_load_import_nothing_of_the_product(project: Path) -> None:
    for path in (project / "chaos").rglob("*.py"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if line.startswith(("import headrace", "from headrace"))], path


def test_every_command_that_chaos_runs_exists() -> None:
    lines: list[tuple[str, ...]] = []
    ground: Any = SimpleNamespace(pipelines=["x"], headrace=lambda *words: lines.append(words))
    for act in FAULTS.values():
        if act.__qualname__.startswith("_command."):
            act(ground, random.Random(0))
    assert ("checkpoint", "compact", "x") in lines
    root = typer.main.get_command(app)
    for line in lines:
        context, words = typer.Context(root), list(line)
        while isinstance(context.command, typer.core.TyperGroup):
            name = words.pop(0)
            known = context.command.get_command(context, name)
            assert known is not None, f"headrace {' '.join(line)}: there is no {name}"
            context = typer.Context(known, parent=context)


def test_how_far_a_query_is_comes_from_the_newest_piece_of_its_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "p" / "q" / "0001" / "ledger"
    folder.mkdir(parents=True)
    (folder.parent / "manifest.json").write_text("{}")
    records = [{"batch": batch, "offsets": {"t": {"0": [batch, batch + 1]}}} for batch in range(4)]
    gathered = "\n".join(json.dumps(record) for record in records[:3])
    (folder / "0000000000-0000000002.ndjson").write_text(gathered)
    assert read.reached(tmp_path, "p", "q", "t") == {0: 3}
    (folder / "0000000003.json").write_text(json.dumps(records[3]))
    assert read.reached(tmp_path, "p", "q", "t") == {0: 4}
    assert read.reached(tmp_path, "p", "other", "t") == {}
    assert read.ledger(tmp_path, "p", "q") == records
