"""What provisioning finds, what it asks about and what it withdraws, by stand-ins for both servers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from headrace.cluster import provision
from headrace.contract import cassandra, kafka
from headrace.contract.load import load_pipeline
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import deployment
from headrace.operations.provision import changes as provision_plan
from headrace.operations.provision.cassandra import grant_steps, table_steps
from headrace.operations.provision.changes import Change, ConsentNeededError, ProvisionPlan, ProvisionStep, RefusedError
from headrace.operations.provision.kafka import right_steps, topic_steps
from tests.support.kafka_admin import FakeKafka


def steps(admin: FakeKafka, pipeline: Pipeline, replicas: int = 1) -> ProvisionPlan:
    topics = topic_steps(admin, pipeline, replicas)
    rights = right_steps(admin, pipeline.name, pipeline.name, kafka.acls(pipeline))
    return ProvisionPlan([*topics, *rights])


@pytest.fixture
def provisioned(good: Pipeline) -> FakeKafka:
    """Kafka as one provisioning of the pipeline leaves it, which asks nothing."""
    admin = FakeKafka()
    steps(admin, good).carry_out()
    return admin


FOREIGN = {
    "cleanup.policy": "compact", "compression.type": "producer", "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime", "min.insync.replicas": "1", "retention.ms": "-1",
    "unclean.leader.election.enable": "false", "segment.bytes": "1",
}  # fmt: skip


def test_an_empty_platform_is_provisioned_without_a_question_and_the_second_time_nothing_changes(
    good: Pipeline,
) -> None:
    admin = FakeKafka()
    made = steps(admin, good).carry_out()
    assert {change.action for change in made} == {"add"}
    assert {change.name for change in made if change.kind == "topic"} == {topic.name for topic in kafka.topics(good)}
    assert steps(admin, good).changes == []


def test_a_topic_of_others_is_not_touched_before_consent_and_adopted_by_the_printed_command(
    provisioned: FakeKafka, good: Pipeline
) -> None:
    acls = {acl for acl in provisioned.acls if acl.name != "sales"}
    admin = FakeKafka(provisioned.topics | {"sales": dict(FOREIGN)}, provisioned.partitions | {"sales": [1]}, acls)
    with pytest.raises(ConsentNeededError) as caught:
        steps(admin, good).carry_out()
    assert admin.topics["sales"] == FOREIGN
    assert len(admin.partitions["sales"]) == 1
    for words in ("not created by Headrace", "compact -> delete", "retention.ms -1 -> ", "CreateTime -> LogAppendTime"):
        assert words in str(caught.value)
    assert str(caught.value).endswith(f"If that is intended: `headrace provision {good.name} --consent sales`.")
    steps(admin, good).carry_out(["sales"])
    assert admin.topics["sales"] == provisioned.topics["sales"] | {"segment.bytes": "1"}
    assert steps(admin, good).changes == []


def test_a_topic_of_an_installation_that_keeps_no_record_is_known_by_the_pipelines_right_on_it(
    provisioned: FakeKafka, good: Pipeline
) -> None:
    provisioned.topics["sales"]["retention.ms"] = "1000"
    changes = steps(provisioned, good).carry_out()
    assert [(change.kind, change.name, change.detail) for change in changes] == [
        (
            "topic settings",
            "sales",
            f"retention.ms 1000 -> {good.sources['sales'].retention.total_seconds() * 1000:.0f}",
        )
    ]


def test_a_topic_with_all_our_settings_is_ours_although_its_rights_were_never_given(
    provisioned: FakeKafka, good: Pipeline
) -> None:
    provisioned.acls.clear()
    assert {change.kind for change in steps(provisioned, good).carry_out()} == {"right"}


@pytest.mark.parametrize(
    ("setting", "now", "asks"),
    [
        ("retention.ms", "99999999999", True),
        ("retention.ms", "-1", True),
        ("retention.ms", "1", False),
        ("cleanup.policy", "compact", True),
        ("cleanup.policy", "compact,delete", False),
        ("message.timestamp.type", "CreateTime", True),
        ("max.message.bytes", "9999999", True),
        ("max.message.bytes", "1", False),
        ("min.insync.replicas", "2", True),
        ("unclean.leader.election.enable", "true", False),
        ("compression.type", "gzip", False),
    ],
)
def test_what_may_lose_data_asks_and_what_loses_none_is_altered(
    provisioned: FakeKafka, good: Pipeline, setting: str, now: str, asks: bool
) -> None:
    wanted = dict(provisioned.topics["sales"])
    provisioned.topics["sales"][setting] = now
    plan = steps(provisioned, good)
    assert [change.name for change in plan.needing_consent()] == ["sales"] * asks
    assert plan.needing_consent(["sales"]) == []
    plan.carry_out(["sales"])
    assert provisioned.topics["sales"] == wanted


def test_more_partitions_ask_where_records_have_keys_that_readers_rely_on(
    provisioned: FakeKafka, broken: Callable[..., Path]
) -> None:
    more = load_pipeline(broken({"sources.sales.partitions": 5}))
    plan = steps(provisioned, more)
    assert {change.name for change in plan.changes} == {"sales", "sales_dead_letters"}
    assert [change.name for change in plan.needing_consent()] == ["sales"]
    plan.carry_out(["sales"])
    assert len(provisioned.partitions["sales"]) == len(provisioned.partitions["sales_dead_letters"]) == 5


def test_what_kafka_cannot_do_is_refused_before_anything_is_changed(provisioned: FakeKafka, good: Pipeline) -> None:
    provisioned.partitions["sales"] = [1] * 9
    provisioned.topics["sales"]["retention.ms"] = "1"
    with pytest.raises(
        RefusedError, match=r"sales of pipeline \w+ has 9 partitions but \d are declared. Kafka cannot remove"
    ):
        steps(provisioned, good).carry_out(["sales"])
    assert provisioned.topics["sales"]["retention.ms"] == "1"
    provisioned.partitions["sales"] = [1] * good.sources["sales"].partitions
    with pytest.raises(RefusedError, match=r"1 replica\(s\), and min\.insync\.replicas=2 would refuse every record"):
        steps(provisioned, good, replicas=3).carry_out()


def test_rights_that_nothing_declares_any_more_are_withdrawn_and_no_others(
    provisioned: FakeKafka, good: Pipeline
) -> None:
    def rule(name: str, user: str) -> AclBinding:
        return AclBinding(
            ResourceType.TOPIC, name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation.READ,
            AclPermissionType.ALLOW,
        )  # fmt: skip

    kept = set(provisioned.acls)
    provisioned.acls |= {rule("dropped", good.name), rule("dropped", "others")}
    plan = steps(provisioned, good)
    assert [str(change) for change in plan.carry_out()] == ["- right revoked dropped: topic: READ"]
    assert provisioned.acls == kept | {rule("dropped", "others")}


@dataclass
class FakeCassandra:
    """Tables as `system_schema` has them and grants as `system_auth` has them; statements are kept."""

    tables: dict[tuple[str, str], cassandra.Table] = field(default_factory=dict)
    grants: dict[str, set[str]] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)

    def execute(self, statement: str, values: tuple[str, ...] = ()) -> Any:
        if "system_schema.columns" in statement:
            table = self.tables.get((values[0], values[1]))
            return SimpleNamespace(all=lambda: self._columns(table) if table else [])
        if "system_schema.tables" in statement:
            options = self.tables[values[0], values[1]].options
            row = SimpleNamespace(
                default_time_to_live=int(options.get("default_time_to_live", "0")),
                gc_grace_seconds=int(options["gc_grace_seconds"]),
                compaction=self._compaction(options["compaction"]),
            )
            return SimpleNamespace(one=lambda: row)
        if "role_permissions" in statement:
            return [SimpleNamespace(resource=name, permissions=them) for name, them in self.grants.items()]
        self.executed.append(statement)
        return None

    @staticmethod
    def _columns(table: cassandra.Table) -> list[Any]:
        kinds = dict.fromkeys(table.partition_key, "partition_key") | dict.fromkeys(table.clustering_key, "clustering")
        position = {name: at for key in (table.partition_key, table.clustering_key) for at, name in enumerate(key)}
        return [
            SimpleNamespace(
                column_name=name,
                type=cql,
                kind=kinds.get(name, "regular"),
                position=position.get(name, -1),
                clustering_order=table.order.get(name, "asc") if name in table.clustering_key else "none",
            )
            for name, cql in table.columns.items()
        ]

    @staticmethod
    def _compaction(cql: str) -> dict[str, str]:
        options: dict[str, str] = json.loads(cql.replace("'", '"'))
        return options | {"class": f"org.apache.cassandra.db.compaction.{options['class']}", "max_threshold": "32"}


def with_tables(pipeline: Pipeline) -> FakeCassandra:
    return FakeCassandra({(table.keyspace, table.name): table for table in cassandra.tables(pipeline)})


def tables_of(session: FakeCassandra, pipeline: Pipeline) -> ProvisionPlan:
    return ProvisionPlan(table_steps(session, pipeline, 1))


def test_tables_that_are_as_declared_are_left_alone(good: Pipeline, pipelines: dict[str, Pipeline]) -> None:
    for pipeline in (good, *pipelines.values()):
        assert tables_of(with_tables(pipeline), pipeline).changes == []


def test_a_ttl_that_is_taken_out_is_taken_from_the_table(good: Pipeline, broken: Callable[..., Path]) -> None:
    session = with_tables(load_pipeline(broken({"queries.seen.sinks.0.ttl": "1 minute"})))
    changes = tables_of(session, good).carry_out()
    assert [(change.kind, change.detail.split(",")[0]) for change in changes] == [
        ("table settings", "default_time_to_live 60 -> 0")
    ]
    assert session.executed[0].startswith('ALTER TABLE "directory"."shops" WITH default_time_to_live = 0')


def test_a_ttl_that_is_added_later_is_given_to_the_table(good: Pipeline, broken: Callable[..., Path]) -> None:
    session = with_tables(good)
    tables_of(session, load_pipeline(broken({"queries.seen.sinks.0.ttl": "1 minute"}))).carry_out()
    assert any("default_time_to_live = 60" in statement for statement in session.executed)


def test_the_options_of_a_table_that_the_pipeline_only_reads_are_its_owners(
    good: Pipeline, broken: Callable[..., Path]
) -> None:
    reader = load_pipeline(broken({"queries.seen.sinks.0.table": "seen"}))
    session = with_tables(reader)
    shops = session.tables["directory", "shops"]
    shops.options.update({"default_time_to_live": "60", "gc_grace_seconds": "1"})
    assert tables_of(session, reader).changes == []


def test_a_type_that_cassandra_cannot_change_is_refused_before_anything_is_changed(good: Pipeline) -> None:
    session = with_tables(good)
    shops = session.tables["directory", "shops"]
    name = next(name for name in shops.columns if name not in shops.key)
    shops.columns[name] = "inet"
    session.tables.popitem()
    with pytest.raises(RefusedError, match=r"is inet but \w+ is declared. Cassandra cannot change a type"):
        tables_of(session, good).carry_out()
    assert session.executed == []


def test_a_clustering_order_that_the_table_does_not_have_is_refused_before_anything_is_changed(
    good: Pipeline, broken: Callable[..., Path]
) -> None:
    newest_first = load_pipeline(broken({"queries.windows.sinks.0.clustering_order": {"shop": "desc"}}))
    assert tables_of(with_tables(newest_first), newest_first).changes == []
    assert tables_of(with_tables(newest_first), good).changes == []
    session = with_tables(good)
    with pytest.raises(
        RefusedError, match=r"orders its rows by shop asc but desc is declared\. Cassandra cannot change an order"
    ):
        tables_of(session, newest_first).carry_out()
    assert session.executed == []


def test_grants_that_nothing_declares_any_more_are_revoked(good: Pipeline) -> None:
    session = FakeCassandra()
    for grant in cassandra.grants(good):
        session.grants.setdefault(grant.resource, set()).add(grant.permission)
    assert grant_steps(session, good, good.name) == []
    session.grants |= {"data/old/dropped": {"SELECT", "MODIFY"}, "data/old": {"SELECT"}, "data": {"DROP"}}
    plan = ProvisionPlan(grant_steps(session, good, good.name))
    plan.carry_out()
    assert session.executed == [
        f'REVOKE DROP ON ALL KEYSPACES FROM "{good.name}"',
        f'REVOKE SELECT ON KEYSPACE "old" FROM "{good.name}"',
        f'REVOKE MODIFY ON TABLE "old"."dropped" FROM "{good.name}"',
        f'REVOKE SELECT ON TABLE "old"."dropped" FROM "{good.name}"',
    ]


def test_a_plan_reads_as_terraforms_and_names_the_command_that_consents() -> None:
    changes = [
        Change("shops", "topic", "new", "add", "2 partitions"),
        Change("shops", "topic settings", "sales", "change", "retention.ms 9 -> 8", "deletes older records"),
        Change("users", "right revoked", "old", "remove", "topic: READ"),
    ]
    plan = ProvisionPlan([ProvisionStep(change, lambda: None) for change in changes])
    assert provision_plan.lines(plan) == [
        "shops:",
        "  + topic new: 2 partitions",
        "  ~ topic settings sales: retention.ms 9 -> 8 (deletes older records)",
        "users:",
        "  - right revoked old: topic: READ",
        "Plan: 1 to add, 1 to change, 1 to remove.",
        "Need consent: 1. If that is intended: `headrace provision shops --consent sales`.",
    ]
    shown = provision_plan.as_json(plan)
    assert (shown["add"], shown["change"], shown["remove"], shown["consent"]) == (1, 1, 1, ["sales"])
    assert provision_plan.as_json(plan, ["sales"])["command"] == ""
    assert provision_plan.lines(ProvisionPlan([])) == ["Plan: 0 to add, 0 to change, 0 to remove."]


def test_consent_to_what_no_pipeline_declares_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(HeadraceError, match=r"Unknown name in --consent: 'sale'; .*; did you mean 'sales'\?"):
        provision_plan.check_consents(["sale"], ["sales", "shops"])


def test_the_job_ends_at_once_with_what_to_apply_where_consent_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []

    def run(*arguments: object) -> list[Change]:
        asked.append(arguments[-2:])
        change = Change("shops", "topic settings", "sales", "change", "retention.ms 9 -> 8", "deletes older records")
        raise ConsentNeededError("Nothing was changed, because data may be lost.", [change])

    monkeypatch.setattr(provision, "run", run)
    monkeypatch.setattr(deployment, "load", lambda: SimpleNamespace(bindings=tmp_path))
    monkeypatch.setattr(sys, "argv", ["provision_cluster"])
    monkeypatch.setitem(os.environ, "HEADRACE_LOGINS", str(tmp_path))
    monkeypatch.setitem(os.environ, "HEADRACE_CONSENT", '["other"]')
    with pytest.raises(RefusedError, match=r'`provision_consent = \["sales"\]` in Terraform') as caught:
        provision.main()
    assert asked == [(["other"], [])]
    assert caught.value.exit_code == provision.REFUSED
    assert "headrace provision" not in str(caught.value)
