"""What is staged, and one sentence for each kind of bad snapshot."""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from headrace.access.bindings import DatabaseBinding, write_binding
from headrace.contract.arrow_types import arrow_type
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dimensions.documents import Staged
from headrace.operations.dimensions.snapshot import DirectorySnapshot
from headrace.operations.dimensions.stage import ColumnError, converted, read_parquet, stage, stage_schema

PROJECT = Path(__file__).resolve().parents[3]
VERSION, AT = "20260101T000000Z", 1_767_225_600_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(PROJECT / "pipelines" / "user_logins.yaml")


def _staged(root: Path, pipeline: Pipeline, place: Path, kind: Any = "csv", **said: Any) -> Staged:
    return stage(str(root), root, pipeline, "users", DirectorySnapshot(VERSION, AT, kind, str(place), **said))


def _rows(staged: Staged) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_parquet(staged.stage).to_pylist()
    return rows


def test_a_snapshot_has_the_key_and_what_no_stream_writes(pipeline: Pipeline) -> None:
    assert stage_schema(pipeline, "users") == pa.schema([("login_id", pa.string()), ("user_name", pa.string())])


def test_a_csv_is_staged_as_it_says(tmp_path: Path, pipeline: Pipeline) -> None:
    text = '\ufeffuser_name,login_id\n"Doe, Jane",jane\n"two\nlines",001\n"",empty\n,none\nŁucja,"ł"\n'
    (tmp_path / "a.csv").write_text(text)
    staged = _staged(tmp_path, pipeline, tmp_path / "a.csv", rows=5, sha256=hashlib.sha256(text.encode()).hexdigest())
    assert _rows(staged) == [
        {"login_id": "jane", "user_name": "Doe, Jane"},
        {"login_id": "001", "user_name": "two\nlines"},
        {"login_id": "empty", "user_name": ""},
        {"login_id": "none", "user_name": None},
        {"login_id": "ł", "user_name": "Łucja"},
    ]
    assert (staged.version, staged.extract_ms, staged.rows) == (VERSION, AT, 5)


def test_a_parquet_is_staged_whatever_its_text_is_encoded_as(tmp_path: Path, pipeline: Pipeline) -> None:
    table = pa.table(
        {
            "login_id": pa.array(["a", "b"], pa.large_string()),
            "user_name": pa.array(["A", "A"]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = _rows(_staged(tmp_path, pipeline, tmp_path / "a.parquet", "parquet"))
    assert rows == [{"login_id": "a", "user_name": "A"}, {"login_id": "b", "user_name": "A"}]


def _parquet(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pyarrow.parquet.write_table(pa.table(columns), path)


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)

    return write


BAD = [
    pytest.param("csv", _text(""), "has no rows. A directory without users is a fault", id="an empty file"),
    pytest.param("csv", _text("login_id,user_name\n"), "has no rows", id="a header only"),
    pytest.param("csv", _text("login_id,name\na,A\n"), "lacks user_name and has surplus columns name. A snapshot has exactly the "
                 "columns login_id, user_name", id="wrong columns"),
    pytest.param("csv", _text("login_id,user_name,last_login\na,A,\n"), "has surplus columns last_login", id="a stream's column"),
    pytest.param("csv", _text("login_id,user_name,login_id\na,A,a\n"), "names a column twice", id="a column twice"),
    pytest.param("csv", _text("a,A\nb,B\n"), "lacks login_id, user_name", id="no header"),
    pytest.param("csv", _text("login_id,user_name\na\n"), ", line 2, column 1: the header has 2 cells, but this line has 1",
                 id="a row that is cut"),
    pytest.param("parquet", _text("login_id,user_name\na,A\n"), "cannot be read as parquet", id="no Parquet"),
    pytest.param("parquet", _parquet(login_id=[1, 2], user_name=["A", "B"]), "login_id is int64, not string", id="types"),
    pytest.param("csv", _text("login_id; user_name\na;A\n"), "lacks login_id, user_name", id="another delimiter and blanks"),
    pytest.param("csv", _text("login_id;user_name\na;A\n"), "is delimited by a semicolon, not by a comma. Write "
                 "`delimiter: \";\"` into the dimension's refresh", id="another delimiter"),
    pytest.param("csv", _text("login_id, user_name\na, A\n"), ", line 1, column 10: there is a blank next to the column name "
                 "user_name; remove it. Correct the extract and drop it again.", id="a blank in the header"),
    pytest.param("parquet", _parquet(login_id=["a"]), "lacks user_name", id="a Parquet with a column too few"),
    pytest.param("parquet", _text(""), "has no rows", id="an empty Parquet"),
    pytest.param("parquet", _parquet(login_id=[], user_name=[]), "has no rows", id="a Parquet without rows"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "write", "says"), BAD)
def test_a_bad_snapshot_is_refused_in_one_sentence(
    tmp_path: Path, pipeline: Pipeline, kind: str, write: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / f"a.{kind}"
    write(path)
    with pytest.raises(HeadraceError) as refused:
        _staged(tmp_path, pipeline, path, kind)
    assert says in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "refresh").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"Ann Low,Ben High\nu2,Cid Long\n",
        b"login_id,user_name\nu1,Ann Low,x\n",
        "login_id,user_name\nu1,Ann Low\n".encode("utf-16"),
        "login_id,user_name\nu1,Ann Low\n".encode("utf-16-le"),
        b"login_id,Ann Low\x1b[2K" + b"w" * 10_000,
    ],
)  # fmt: skip
def test_a_refusal_holds_no_person_and_no_line_of_its_own(tmp_path: Path, pipeline: Pipeline, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(HeadraceError) as refused:
        _staged(tmp_path, pipeline, path)
    if not content.startswith(b"login_id,Ann"):  # a name in the header is a column's, as far as one can see
        assert "Ann" not in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_a_snapshot_whose_lines_end_with_a_carriage_return_alone_is_read(tmp_path: Path, pipeline: Pipeline) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"login_id,user_name\ru001,Ann Low\ru002,Ben High\r")
    rows = _rows(_staged(tmp_path, pipeline, path))
    assert rows == [{"login_id": "u001", "user_name": "Ann Low"}, {"login_id": "u002", "user_name": "Ben High"}]


def test_a_gzip_snapshot_is_read_and_its_hash_is_that_of_the_file(tmp_path: Path, pipeline: Pipeline) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"login_id,user_name\na,A\n"))
    staged = _staged(tmp_path, pipeline, path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert _rows(staged) == [{"login_id": "a", "user_name": "A"}]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(HeadraceError, match=r"a\.csv\.gz is not a complete gzip file: it was truncated or changed"):
        _staged(tmp_path, pipeline, path)


@pytest.mark.parametrize(
    ("kind", "column", "says"),
    [
        ("date", pa.array([1_700_000_000_000]), "column found is int64, not date"),
        ("timestamp", pa.array([1_700_000_000_000]), "column found is int64, not timestamp"),
        ("decimal(9,2)", pa.array([0.1]), "column found is double, not decimal"),
        ("int", pa.array([1, 3_000_000_000]), "column found is int64, but its value in row 2 is not int"),
        ("decimal(4,1)", pa.array([Decimal("1.5"), Decimal("1.25")]), "its value in row 2 is not decimal(4,1)"),
        ("date", pa.array(["2026-01-01", "secret"]), "column found is string, but its value in row 2 is not date"),
    ],
)
def test_a_parquet_value_that_would_change_is_refused_by_column_and_row(kind: str, column: pa.Array, says: str) -> None:
    schema = pa.schema([("found", arrow_type(kind))])
    with pytest.raises(ColumnError) as refused:
        converted(pa.table({"found": column}), schema, {"found": kind})
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "3000000000" not in str(refused.value)


def test_a_snapshot_that_breaks_its_mark_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    path = tmp_path / "a.csv"
    path.write_text("login_id,user_name\na,A\n")
    with pytest.raises(HeadraceError, match="has 1 rows, but its mark says 2: it is truncated"):
        _staged(tmp_path, pipeline, path, rows=2)
    with pytest.raises(HeadraceError, match="does not have the SHA-256 in its mark"):
        _staged(tmp_path, pipeline, path, sha256="0" * 64)


def test_a_snapshot_that_cannot_be_read_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    with pytest.raises(HeadraceError, match="cannot be read"):
        _staged(tmp_path, pipeline, tmp_path / "gone.csv")


def _database(tmp_path: Path, rows: list[tuple[object, object]], columns: str = "login_id, user_name") -> None:
    with sqlite3.connect(tmp_path / "d.sqlite") as connection:
        connection.execute(f"CREATE TABLE people ({columns}, last_login)")
        connection.executemany("INSERT INTO people VALUES (?, ?, NULL)", rows)
    connection.close()
    write_binding(tmp_path / "users-source", {"driver": "sqlite", "database": str(tmp_path / "d.sqlite")})


def test_a_sql_table_is_staged_without_the_columns_of_the_stream(tmp_path: Path, pipeline: Pipeline) -> None:
    _database(tmp_path, [("a", "A"), ("b", None)])
    rows = _rows(_staged(tmp_path, pipeline, Path("people"), "sql"))
    assert rows == [{"login_id": "a", "user_name": "A"}, {"login_id": "b", "user_name": None}]


@pytest.mark.parametrize(
    ("table", "columns", "row", "says"),
    [
        pytest.param("persons", "login_id, user_name", ("a", "A"), "persons cannot be read from", id="no such table"),
        pytest.param("people", "login_id, name", ("a", "A"), "that the table has login_id, user_name", id="columns"),
        pytest.param("people", "login_id, user_name", (1, "A"), "values of other types than the contract", id="types"),
    ],
)
def test_a_sql_table_that_is_no_good_is_refused_in_one_sentence(
    tmp_path: Path, pipeline: Pipeline, table: str, columns: str, row: tuple[object, object], says: str
) -> None:
    _database(tmp_path, [row], columns)
    with pytest.raises(HeadraceError, match=says) as refused:
        _staged(tmp_path, pipeline, Path(table), "sql")
    assert "\n" not in str(refused.value)


def test_a_driver_that_is_not_installed_is_said_so(tmp_path: Path, pipeline: Pipeline) -> None:
    write_binding(tmp_path / "users-source", {"driver": "oracle+nope", "database": "d"})
    with pytest.raises(HeadraceError, match=r"driver oracle\+nope of the binding users-source is not installed"):
        _staged(tmp_path, pipeline, Path("people"), "sql")


def test_the_password_of_a_database_never_shows() -> None:
    assert os.sep not in repr(DatabaseBinding("a", "b", password="s/ecret"))
