"""The directory in a real PostgreSQL: a view of 100 000 users as one state, and the sentences where it is no good.

Slow: a server is made and started (3 seconds).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.access.bindings import read_database, write_binding
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dimensions.documents import Staged
from headrace.operations.dimensions.snapshot import DirectorySnapshot
from headrace.operations.dimensions.stage import read_parquet, stage
from tests.support.postgres import PASSWORD, execute, postgres

pytestmark = [pytest.mark.slow]

PROJECT = Path(__file__).resolve().parents[3]
USERS = 100_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with postgres(tmp_path_factory.mktemp("postgres") / "server") as binding:
        execute(
            binding,
            "CREATE TABLE people (id bigint PRIMARY KEY, name text, last_login timestamptz)",
            f"INSERT INTO people SELECT n, 'Üser ' || n, now() FROM generate_series(1, {USERS}) n",
            "CREATE VIEW users AS SELECT 'u' || id AS login_id, name AS user_name, last_login FROM people",
            "CREATE VIEW numbers AS SELECT id AS login_id, name AS user_name FROM people",
            "CREATE VIEW nobody AS SELECT * FROM users WHERE false",
        )
        yield binding


@pytest.fixture
def pipeline() -> Pipeline:
    return load_pipeline(PROJECT / "pipelines" / "user_logins.yaml")


def _stage(root: Path, pipeline: Pipeline, binding: dict[str, str], table: str) -> Staged:
    write_binding(root / "users-source", binding)
    return stage(str(root), root, pipeline, "users", DirectorySnapshot("20260101T000000Z", 1, "sql", table))


def test_a_view_of_a_hundred_thousand_users_is_staged(
    tmp_path: Path, pipeline: Pipeline, directory: dict[str, str]
) -> None:
    staged = _stage(tmp_path, pipeline, directory, "public.users")
    table = read_parquet(staged.stage)
    assert table.column_names == ["login_id", "user_name"]
    assert table.num_rows == staged.rows == USERS
    assert dict(zip(*(column.to_pylist() for column in table.columns), strict=True)) == {
        f"u{number}": f"Üser {number}" for number in range(1, USERS + 1)
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param("nobody", "nobody has no rows", id="no rows"),
        pytest.param("gone", r"gone cannot be read from 127\.0\.0\.1:\d+/postgres", id="no such table"),
        pytest.param("numbers", "numbers of 127.* has values of other types than the contract", id="other types"),
        pytest.param(
            "people", "Check the binding users-source and that the table has login_id, user_name", id="columns"
        ),
    ],
)
def test_a_directory_that_is_no_good_is_refused_in_one_sentence(
    tmp_path: Path, pipeline: Pipeline, directory: dict[str, str], table: str, says: str
) -> None:
    with pytest.raises(HeadraceError, match=says) as refused:
        _stage(tmp_path, pipeline, directory, table)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"password": "another"}, {"port": "1"}], ids=["password", "port"])
def test_a_login_that_does_not_work_is_refused_and_no_password_is_shown(
    tmp_path: Path, pipeline: Pipeline, directory: dict[str, str], wrong: dict[str, str]
) -> None:
    with pytest.raises(HeadraceError, match="users cannot be read from") as refused:
        _stage(tmp_path, pipeline, directory | wrong, "users")
    for secret in (PASSWORD, "another"):
        assert secret not in str(refused.value)
    assert PASSWORD not in repr(read_database(tmp_path, "users-source"))
