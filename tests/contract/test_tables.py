from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contract.cassandra import Table, alter, create_table, ddl, grants, tables
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError

UPSERTED = (
    "WITH compaction = {'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'} AND gc_grace_seconds = 864000"
)


def test_the_tables_of_pos_sales_are_exactly_these(pipelines: dict[str, Pipeline]) -> None:
    windows = (
        '("window_start" timestamp, "window_end" timestamp, "product_id" text, "total_amount" decimal, '
        f'"sales" bigint, PRIMARY KEY (("window_start"), "product_id")) {UPSERTED}'
    )
    assert ddl(pipelines["pos_sales"]) == [
        ('CREATE KEYSPACE IF NOT EXISTS "pos_sales" WITH replication = '
        "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"),
        ('CREATE TABLE IF NOT EXISTS "pos_sales"."product_totals" ("product_id" text, "total_amount" decimal, '
        f'"sales" bigint, PRIMARY KEY (("product_id"))) {UPSERTED}'),
        f'CREATE TABLE IF NOT EXISTS "pos_sales"."tumbling" {windows}',
        f'CREATE TABLE IF NOT EXISTS "pos_sales"."sliding" {windows}',
        ('CREATE TABLE IF NOT EXISTS "pos_sales"."leaderboard" ("board" text, "product_id" text, '
        f'"total_amount" decimal, "sales" bigint, PRIMARY KEY (("board"), "product_id")) {UPSERTED}'),
    ]  # fmt: skip


def test_a_dimension_that_a_query_writes_back_is_one_table(pipelines: dict[str, Pipeline]) -> None:
    assert ddl(pipelines["user_logins"], replication_factor=3) == [
        ('CREATE KEYSPACE IF NOT EXISTS "test_db" WITH replication = '
        "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}"),
        ('CREATE TABLE IF NOT EXISTS "test_db"."users" ("login_id" text, "user_name" text, "last_login" timestamp, '
        f'"last_device" text, PRIMARY KEY (("login_id"))) {UPSERTED}'),
    ]  # fmt: skip


def test_the_table_of_ad_attribution_keeps_every_click_of_an_impression(pipelines: dict[str, Pipeline]) -> None:
    (table,) = tables(pipelines["ad_attribution"])
    assert table.key == ("impr_uuid", "impr_date", "ad_id", "click_key")


def test_a_pipeline_without_cassandra_has_no_statements(pipelines: dict[str, Pipeline]) -> None:
    assert ddl(pipelines["web_events"]) == []


def test_a_ttl_is_the_tables_default(good: Pipeline) -> None:
    windows = next(table for table in tables(good) if table.name == "windows")
    assert windows.options["default_time_to_live"] == str(30 * 86_400)


def test_time_windows_compact_only_rows_that_are_written_with_their_own_time(broken: Callable[..., Path]) -> None:
    # A 'batch' write time stands still at the generation's start: all rows would fall into one window.
    good = load_pipeline(broken({"queries.seen.sinks.0.ttl": "1 day"}))
    by_name = {table.name: table.options for table in tables(good)}
    assert "Unified" in by_name["windows"]["compaction"]
    assert by_name["shops"]["default_time_to_live"] == "86400"
    expiring = load_pipeline(broken({"queries.seen.sinks.0.table": "seen", "queries.seen.sinks.0.ttl": "1 day"}))
    seen = next(table for table in tables(expiring) if table.name == "seen")
    assert seen.options["compaction"] == (
        "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', 'compaction_window_size': '60'}"
    )


def test_a_role_reads_its_dimensions_and_changes_its_own_tables_only(
    pipelines: dict[str, Pipeline], broken: Callable[..., Path]
) -> None:
    assert [grant.cql for grant in grants(pipelines["user_logins"])] == [
        'GRANT SELECT ON TABLE "test_db"."users" TO "user_logins"',
        'GRANT MODIFY ON TABLE "test_db"."users" TO "user_logins"',
    ]
    elsewhere = load_pipeline(broken({"queries.seen.sinks.0.table": "seen"}))
    rights = {(grant.table, grant.permission) for grant in grants(elsewhere) if grant.keyspace == "directory"}
    assert rights == {("shops", "SELECT"), ("seen", "SELECT"), ("seen", "MODIFY")}


TABLE = Table("shop", "sales", {"id": "text", "at": "timestamp", "total": "decimal"}, ("id",), ("at",))


def test_missing_columns_are_added_and_foreign_ones_stay() -> None:
    existing = replace(TABLE, columns={"id": "text", "at": "timestamp", "theirs": "int"})
    assert alter(existing, TABLE) == {"total": 'ALTER TABLE "shop"."sales" ADD IF NOT EXISTS "total" decimal'}


def test_a_table_that_is_as_wanted_is_left_alone() -> None:
    assert alter(replace(TABLE, options={"gc_grace_seconds": "1"}), TABLE) == {}


def test_a_changed_type_is_refused_with_the_way_out() -> None:
    existing = replace(TABLE, columns={**TABLE.columns, "total": "bigint"})
    with pytest.raises(HeadraceError) as caught:
        alter(existing, TABLE)
    assert str(caught.value) == (
        "Column total of table shop.sales is bigint but decimal is declared. Cassandra cannot change a type: give the "
        "column or the table a new name."
    )


@pytest.mark.parametrize(
    "existing", [replace(TABLE, partition_key=("at",), clustering_key=("id",)), replace(TABLE, clustering_key=())]
)
def test_a_changed_key_is_refused_with_the_way_out(existing: Table) -> None:
    with pytest.raises(
        HeadraceError, match=r"\(\(id\), at\) is declared. Cassandra cannot change a key: give the sink"
    ):
        alter(existing, TABLE)


def test_a_reserved_word_is_a_name_like_any_other() -> None:
    statement = create_table(Table("token", "table", {"select": "text"}, ("select",)))
    assert statement == 'CREATE TABLE IF NOT EXISTS "token"."table" ("select" text, PRIMARY KEY (("select")))'


def test_a_clustering_order_is_made_with_the_table(broken: Callable[..., Path]) -> None:
    key = {"clustering_key": ["shop", "window_end"], "clustering_order": {"window_end": "desc"}}
    change = {f"queries.windows.sinks.0.{name}": value for name, value in key.items()}
    end = {"queries.windows.columns.window_end": {"type": "timestamp", "required": True}}
    statement = next(statement for statement in ddl(load_pipeline(broken(change | end))) if '"windows"' in statement)
    assert 'PRIMARY KEY (("window_start"), "shop", "window_end"))' in statement
    assert ' WITH CLUSTERING ORDER BY ("shop" ASC, "window_end" DESC) AND compaction = ' in statement


def test_a_changed_order_is_refused_and_one_that_nobody_declares_is_left_alone() -> None:
    wanted = replace(TABLE, order={"at": "desc"})
    assert (
        alter(replace(TABLE, order={"at": "desc"}), wanted) == alter(replace(TABLE, order={"at": "desc"}), TABLE) == {}
    )
    with pytest.raises(HeadraceError) as caught:
        alter(replace(TABLE, order={"at": "asc"}), wanted)
    assert str(caught.value) == (
        "Table shop.sales orders its rows by at asc but desc is declared. Cassandra cannot change an order: give the sink a new "
        "table name, fill it, and drop the old table."
    )
