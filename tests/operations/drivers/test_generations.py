"""What a new generation does to the rows of an older one is said and decided before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.load import load_pipeline
from headrace.errors import HeadraceError
from headrace.operations.drivers import desired_state, generations
from tests.support import checkpoints

POS = checkpoints.pos_sales()
TOTALS = '"pos_sales"."product_totals"'


@dataclass
class Tables:
    """Cassandra with some tables that have rows."""

    filled: set[str]
    statements: list[str] = field(default_factory=list)

    def execute(self, statement: str, **_: Any) -> Any:
        self.statements.append(statement)
        table = statement.removesuffix(" LIMIT 1").rpartition(" ")[2]
        if statement.startswith("TRUNCATE"):
            self.filled.discard(table)
        return SimpleNamespace(one=lambda: object() if table in self.filled else None)

    @property
    def emptied(self) -> list[str]:
        return [statement for statement in self.statements if statement.startswith("TRUNCATE")]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Put the imagined Cassandra in place of the real one."""
    made = Tables({TOTALS})

    @contextmanager
    def session(_: Path) -> Iterator[Tables]:
        yield made

    monkeypatch.setattr(generations, "cassandra_session", session)
    return made


def _prepare(root: Path, queries: list[str], rows: str, request: str = "") -> None:
    generations.prepare(checkpoints.FakeLauncher(str(root)), root, POS, queries, rows, request)


def test_a_new_generation_over_rows_is_refused_with_what_becomes_of_them_and_the_three_ways(
    tmp_path: Path, tables: Tables
) -> None:
    with pytest.raises(HeadraceError) as refused:
        _prepare(tmp_path, ["product_totals", "archive_pos"], "")
    again = "headrace stream start pos_sales --new-generation product_totals --new-generation archive_pos --rows"
    for part in (
        "pos_sales.product_totals (product_totals)",
        "falls to what Kafka still holds",
        f"{again} keep;",
        f"{again} empty;",
        "headrace batch rebuild pos_sales product_totals",
    ):
        assert part in str(refused.value)
    assert tables.emptied == []


def test_rows_are_kept_or_emptied_as_the_operator_says(tmp_path: Path, tables: Tables) -> None:
    _prepare(tmp_path, ["product_totals"], "keep")
    assert tables.statements == []
    _prepare(tmp_path, ["product_totals", "tumbling"], "empty")
    assert tables.emptied == [f"TRUNCATE {TOTALS}"], "only what has rows"


def test_an_empty_table_and_a_query_without_one_ask_for_nothing(tmp_path: Path, tables: Tables) -> None:
    tables.filled.clear()
    _prepare(tmp_path, ["product_totals"], "")
    _prepare(tmp_path, ["archive_pos"], "")
    assert tables.emptied == []


def test_no_table_is_emptied_while_a_driver_may_write_into_it(tmp_path: Path, tables: Tables) -> None:
    desired_state.write(str(tmp_path), "pos_sales", "RUNNING", "ann", "start", request="the first")
    with pytest.raises(HeadraceError, match=r"cannot be emptied: .*headrace stream stop pos_sales"):
        _prepare(tmp_path, ["product_totals"], "empty")
    _prepare(tmp_path, ["product_totals"], "empty", request="the first")  # a task that is tried again
    assert tables.emptied == []


def test_a_start_without_a_hold_is_held_at_no_moment(tmp_path: Path) -> None:
    """Not even in the millisecond in which it is written: a table was emptied beside a driver that was to start."""
    assert desired_state.write(str(tmp_path), "pos_sales", "RUNNING", "ann", "start").held_until_ms == 0


def test_no_table_of_a_paused_pipeline_is_emptied_since_its_start_would_be_refused(
    tmp_path: Path, tables: Tables
) -> None:
    desired_state.write(str(tmp_path), "pos_sales", "PAUSED", "ann", "we move")
    with pytest.raises(HeadraceError, match=r"pos_sales is paused: headrace stream stop pos_sales"):
        _prepare(tmp_path, ["product_totals"], "empty")
    assert tables.emptied == []


def test_a_word_that_is_no_choice_is_refused(tmp_path: Path, tables: Tables) -> None:
    with pytest.raises(HeadraceError, match="Unknown choice 'erase'"):
        _prepare(tmp_path, ["product_totals"], "erase")


@pytest.mark.parametrize("rows", ["", "empty"])
def test_a_table_with_rows_of_others_is_never_emptied_and_no_message_proposes_it(
    tmp_path: Path, tables: Tables, project: Path, rows: str
) -> None:
    """The dimension of `user_logins` holds the names of all users, which no log-in would bring back."""
    logins = load_pipeline(project / "pipelines" / "user_logins.yaml")
    tables.filled = {'"test_db"."users"'}
    with pytest.raises(HeadraceError) as refused:
        generations.prepare(checkpoints.FakeLauncher(str(tmp_path)), tmp_path, logins, ["last_login"], rows)
    assert tables.emptied == []
    assert "--rows empty" not in str(refused.value)
    said = "test_db.users is also the dimension users" if rows else "headrace batch rebuild user_logins last_login"
    assert said in str(refused.value)
