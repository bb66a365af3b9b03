"""Provisioning on real servers: what it makes, that it may be repeated, and what a pipeline's login may not do."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from cassandra import Unauthorized
from cassandra.cluster import NoHostAvailable
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from headrace.access import bindings
from headrace.contract import kafka
from headrace.contract.load import load_pipeline, load_pipelines
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.clients import cassandra_session, kafka_admin, log_in
from headrace.operations.provision import retirement
from headrace.operations.provision.changes import ConsentNeededError
from headrace.operations.provision.kafka import acls_of, has_user
from headrace.operations.provision.run import provision
from tests.support.servers import wait_until

pytestmark = pytest.mark.platform


def own_copy(project: Path, tmp_path: Path, change: tuple[str, str] = ("", "")) -> Pipeline:
    """web_events under names of this file's own, with one text of it replaced: tests run in any order."""
    text = (project / "pipelines" / "web_events.yaml").read_text()
    for name in ("web_events", "quickstart", "transformed"):
        text = text.replace(name, f"{name}_{tmp_path.name[-12:].strip('_')}"[:40])
    assert change[0] in text
    path = tmp_path / f"web_events_{tmp_path.name[-12:].strip('_')}.yaml"
    path.write_text(text.replace(*change, 1))
    return load_pipeline(path)


def test_the_second_time_nothing_changes(platform: Settings, project: Path) -> None:
    pipelines = list(load_pipelines(project / "pipelines").values())
    provision(pipelines, platform.bindings(), platform.home / "bindings")
    assert provision(pipelines, platform.bindings(), platform.home / "bindings") == []


def test_more_partitions_and_another_retention_are_made_so(platform: Settings, project: Path, tmp_path: Path) -> None:
    provision([own_copy(project, tmp_path)], platform.bindings(), platform.home / "bindings")
    key = "    key: domain\n"
    wanted = own_copy(project, tmp_path, (key, "    retention: 3 days\n    partitions: 3\n" + key))
    (topic,) = wanted.sources
    with pytest.raises(ConsentNeededError, match=rf"`headrace provision {wanted.name} --consent {topic}`\.$"):
        provision([wanted], platform.bindings(), platform.home / "bindings")
    admin = kafka_admin(platform.bindings())
    assert len(admin.list_topics(topic, timeout=120).topics[topic].partitions) == 2
    changes = provision([wanted], platform.bindings(), platform.home / "bindings", consented=[topic])
    assert {(c.kind, c.name) for c in changes} == {
        ("partitions", topic),
        ("partitions", f"{topic}_dead_letters"),
        ("topic settings", topic),
    }
    assert len(admin.list_topics(topic, timeout=120).topics[topic].partitions) == 3


def test_a_ttl_and_rights_that_a_pipeline_drops_go_and_a_topic_of_others_waits_for_consent(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    name = f"converging_{uuid.uuid4().hex[:8]}"  # a second try finds nothing of the first

    def declared(ttl: str, sink: str) -> Pipeline:
        content = yaml.safe_load((project / "pipelines" / "pos_sales.yaml").read_text())
        content["name"] = name
        content["sources"] = {name: content["sources"]["pos"]}
        query = content["queries"]["product_totals"] | {"sources": [name]}
        query["sinks"][0] |= {"ttl": ttl} if ttl else {}
        items = content["queries"]["items"] | {"sources": [name]}
        items["sinks"][0]["topic"] = sink
        content["queries"] = {"product_totals": query, "items": items}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_pipeline(tmp_path / f"{name}.yaml")

    def run(wanted: Pipeline, *consented: str) -> set[tuple[str, str]]:
        changes = provision([wanted], platform.bindings(), platform.home / "bindings", consented=consented)
        return {(change.kind, change.name) for change in changes}

    admin = kafka_admin(platform.bindings())
    foreign = {"cleanup.policy": "compact", "retention.ms": "-1"}
    admin.create_topics([NewTopic(name, 1, 1, config=foreign)])[name].result(120)
    wait_until(lambda: name in admin.list_topics(timeout=120).topics)
    first = declared("1 hour", f"{name}_one")
    with pytest.raises(ConsentNeededError, match=rf"not created by Headrace.*--consent {name}`"):
        run(first)
    described = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)])
    (settings,) = [future.result(120) for future in described.values()]
    assert settings["cleanup.policy"].value == "compact"
    assert run(first, name) >= {("topic", name), ("partitions", name), ("login", name)}
    assert run(first) == set()
    second = declared("", f"{name}_two")
    with cassandra_session(platform.bindings()) as session:
        session.execute(f'GRANT SELECT ON TABLE test_db.users TO "{name}"')
        assert run(second) == {
            ("table settings", f"{name}.product_totals"),
            ("topic", f"{name}_two"),
            ("right", f"{name}_two"),
            ("right revoked", f"{name}_one"),
            ("right revoked", "table test_db.users"),
        }
        row = session.execute(
            f"SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = '{name}' "
            "AND table_name = 'product_totals'"
        ).one()
        assert row.default_time_to_live == 0
    assert run(second) == set()


def test_partitions_cannot_be_taken_away(platform: Settings, project: Path, tmp_path: Path) -> None:
    provision([own_copy(project, tmp_path)], platform.bindings(), platform.home / "bindings")
    key = "    key: domain\n"
    wanted = own_copy(project, tmp_path, (key, "    partitions: 1\n" + key))
    with pytest.raises(HeadraceError, match=r"has 2 partitions but 1 are declared. Kafka cannot remove partitions"):
        provision([wanted], platform.bindings(), platform.home / "bindings")


def test_a_new_column_is_added_to_its_table(platform: Settings, project: Path, tmp_path: Path) -> None:
    known = "      last_device: {type: string}\n"
    path = tmp_path / "user_logins.yaml"
    shutil.copy(project / "pipelines" / path.name, path)
    path.write_text(path.read_text().replace(known, known + "      country: {type: string}\n", 1))
    wanted = load_pipeline(path)
    changes = provision([wanted], platform.bindings(), platform.home / "bindings")
    assert [c.kind for c in changes] == ["column"]
    with cassandra_session(platform.bindings()) as session:
        session.execute("SELECT country FROM test_db.users LIMIT 1")
        session.execute("ALTER TABLE test_db.users DROP country")


def test_a_pipelines_role_reads_its_dimension_and_writes_no_table_of_others(platform: Settings) -> None:
    with cassandra_session(platform.bindings("user_logins")) as session:
        session.execute("SELECT login_id FROM test_db.users LIMIT 1")
        for statement in (
            "INSERT INTO pos_sales.product_totals (product_id) VALUES ('x')",
            "SELECT product_id FROM pos_sales.product_totals LIMIT 1",
            "DROP TABLE test_db.users",
        ):
            with pytest.raises(Unauthorized):
                session.execute(statement)


def test_a_pipelines_user_writes_no_source_topic(platform: Settings) -> None:
    config = bindings.read_kafka(platform.bindings("pos_sales")).client_config()
    failed: list[object] = []
    producer = Producer(config | {"message.timeout.ms": 120000, "log_level": 0})
    producer.produce("pos", value=b"{}", on_delivery=lambda error, _: failed.append(error))
    producer.flush(150)
    assert len(failed) == 1
    assert "TOPIC_AUTHORIZATION_FAILED" in str(failed[0])


def test_kafka_holds_exactly_the_rights_of_the_contract(platform: Settings, project: Path) -> None:
    pipeline = load_pipeline(project / "pipelines" / "pos_sales.yaml")
    provision([pipeline], platform.bindings(), platform.home / "bindings")
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, "User:pos_sales", None, AclOperation.ANY, AclPermissionType.ANY
    )
    admin = kafka_admin(platform.bindings())
    granted = admin.describe_acls(everything).result(120)
    wanted = {(acl.resource.upper(), acl.name, acl.operation) for acl in kafka.acls(pipeline)}
    assert {(acl.restype.name, acl.name, acl.operation.name) for acl in granted} == wanted


def test_a_wrong_admin_password_is_one_sentence(platform: Settings, project: Path, tmp_path: Path) -> None:
    root = tmp_path / "admin"
    shutil.copytree(platform.bindings(), root)
    (root / "cassandra" / "password").write_text("wrong")
    pipelines = list(load_pipelines(project / "pipelines").values())
    with pytest.raises(HeadraceError, match=r"refuses headrace_admin or does not answer. Check `headrace status`"):
        provision(pipelines, root, tmp_path / "bindings")
    assert not (tmp_path / "bindings").exists()


def test_a_retired_pipeline_can_log_in_nowhere_and_its_data_stays(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    retired = own_copy(project, tmp_path)
    root = platform.home / "bindings"
    provision([retired], platform.bindings(), root)
    login = bindings.read_cassandra(root / retired.name)
    launcher = SimpleNamespace(find=lambda _: [])
    with retirement.planned(retired.name, [], launcher, platform.bindings(), root) as plan:
        with pytest.raises(
            ConsentNeededError, match=rf"`headrace provision --retire {retired.name} --consent {retired.name}`"
        ):
            plan.carry_out()
        plan.carry_out([retired.name])
    assert not (root / retired.name).exists()
    admin = kafka_admin(platform.bindings())
    assert set(retired.sources) <= admin.list_topics(timeout=120).topics.keys()
    assert acls_of(admin, retired.name) == set()
    assert not has_user(admin, retired.name)
    with pytest.raises(NoHostAvailable), log_in(login):
        pass
    with retirement.planned(retired.name, [], launcher, platform.bindings(), root) as plan:
        assert plan.changes == []
