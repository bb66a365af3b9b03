"""`headrace pipeline new`: what it writes loads, says what it was told, and overwrites nothing."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli import pipeline
from headrace.contract.load import load_pipeline, load_pipelines
from headrace.errors import HeadraceError
from headrace.operations.pipelines import check, new
from headrace.operations.pipelines.new import NewPipeline, column_of
from headrace.operations.pipelines.sample import columns_of

RECORDS = [
    b'{"orderId": "a1", "shipTo": {"city": "Oslo"}, "items": [1], "total": 12.5, "createdAt": "2026-03-01T10:00:00Z"}',
    b'{"orderId": "a2", "shipTo": null, "items": [], "total": 7, "createdAt": "2026-03-01 10:00:01"}',
]


def request(name: str = "orders", topic: str = "shop.orders-v1", **more: str) -> NewPipeline:
    return NewPipeline(name, topic, columns_of(RECORDS), "me", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("sink", new.SINKS)
def test_both_files_are_written_and_the_description_loads(tmp_path: Path, sink: str) -> None:
    description, transform = new.write(tmp_path, request(sink=sink))
    made = load_pipeline(description)
    assert (made.owner, list(made.sources), made.source_name("shop.orders-v1")) == (
        "me",
        ["shop.orders-v1"],
        "shop_orders_v1",
    )
    source = made.sources["shop.orders-v1"]
    assert source.key == "order_id"
    assert source.event_time is not None
    assert {name: column.path(name) for name, column in source.columns.items()}["city"] == ("shipTo", "city")
    (query,) = made.queries.values()
    assert "items" not in query.columns, "a json column is taken apart by a person"
    assert [declared.kind for declared in query.sinks] == [sink]
    (function,) = [node for node in ast.parse(transform.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [function.name, *(argument.arg for argument in function.args.args)] == [*made.queries, "shop_orders_v1"]
    assert check.check(tmp_path).faults == ()


@pytest.mark.parametrize("topic", ["class", "import", "lambda"])
def test_a_topic_named_like_a_python_keyword_gets_a_source_with_another_name(tmp_path: Path, topic: str) -> None:
    description, transform = new.write(tmp_path, request(topic=topic))
    assert load_pipeline(description).source_name(topic) == f"{topic}_records"
    ast.parse(transform.read_text())


def test_without_an_event_time_the_rows_go_to_files_and_a_table_is_refused(tmp_path: Path) -> None:
    plain = NewPipeline("plain", "plain_records", [column_of("id:string!"), column_of("note:string")], "me")
    description, _ = new.write(tmp_path, plain)
    (query,) = load_pipeline(description).queries.values()
    assert [sink.kind for sink in query.sinks] == ["files"]
    with pytest.raises(HeadraceError, match="A table of the newest rows needs an event time"):
        new.write(tmp_path, NewPipeline("other", "other_records", plain.columns, "me", sink="cassandra"))


@pytest.mark.parametrize("there", ["pipelines/orders.yaml", "spark_jobs/orders.py"])
def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path: Path, there: str) -> None:
    path = tmp_path / there
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(HeadraceError, match=r"exists already\. Choose another name, or remove the file\."):
        new.write(tmp_path, request())
    assert [file.read_text() for file in tmp_path.rglob("*") if file.is_file()] == ["mine"]


def test_a_topic_that_another_pipeline_has_is_refused_before_anything_is_written(tmp_path: Path, project: Path) -> None:
    shutil.copytree(project / "pipelines", tmp_path / "pipelines")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HeadraceError, match=r"orders and pos_sales both own topic pos: only one pipeline"):
        new.write(tmp_path, request(topic="pos"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "Orders"}, "'Orders' is not a pipeline name"),
        ({"name": "admin"}, r"pipelines/admin\.yaml: name: admin is reserved by the platform"),
        ({"topic": "a b"}, "'a b' is not a topic"),
        ({"key": "orderid"}, "--key: unknown column 'orderid'; allowed: .*did you mean 'order_id'"),
        ({"key": "city"}, r"sources.shop_orders_v1.key: city may be null"),
        ({"event_time": "at"}, "--event-time: unknown column 'at'"),
        ({"event_time": "total"}, r"event_time.column: total is decimal\(12,2\)"),
        ({"sink": "kafa"}, "Unknown sink 'kafa'; .*did you mean 'kafka'"),
    ],
)
def test_what_cannot_be_a_pipeline_is_refused(tmp_path: Path, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(HeadraceError, match=says):
        new.write(tmp_path, request(**wrong))
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("text", ["id", "id:", ":string", "Id:string", "id:string?", "id string"])
def test_a_column_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(HeadraceError, match="A column is NAME:TYPE, with ! if it is required"):
        column_of(text)


def test_texts_of_people_cannot_break_the_description(tmp_path: Path) -> None:
    odd = 'a: "b" # {c}\n\\ łódź'
    description, _ = new.write(tmp_path, request(description=odd))
    assert load_pipeline(description).description == odd


def run(*words: str, given: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(pipeline.pipeline, words, input=given)
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_the_command_writes_from_a_sample_and_from_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.ndjson").write_bytes(b"\n".join(RECORDS))
    assert run("new", "orders", "--from", "s.ndjson", "--owner", "me")[0] == 0
    assert run("new", "more", "--column", "id:string!", "--column", "at:timestamp!", "--owner", "me")[0] == 0
    assert list(load_pipelines(tmp_path / "pipelines")) == ["more", "orders"]
    code, said = run("check")
    assert (code, "2 pipelines are right: more, orders." in said) == (0, True)


def test_the_command_asks_where_a_person_is_there_and_refuses_where_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("new", "orders")
    assert (code, "give --from FILE, --from-topic TOPIC, or --column NAME:TYPE" in said) == (1, True)
    with monkeypatch.context() as person:
        person.setattr(pipeline, "is_terminal", lambda: True)
        assert run("new", "orders", "--owner", "me", given="id:string!\nat:timestamp!\n\n")[0] == 0
    assert list(load_pipeline(tmp_path / "pipelines" / "orders.yaml").sources["orders_records"].columns) == ["id", "at"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "none.ndjson"), "none.ndjson cannot be read (No such file or directory)"),
        (("--from", "x", "--from-topic", "t"), "exclude each other"),
    ],
)
def test_a_sample_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("new", "orders", *words)
    assert (code, says in said) == (1, True), said
