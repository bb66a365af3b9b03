"""What is removed of a pipeline whose file is gone, what asks first, and what is refused, by stand-ins for both servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.access.bindings import write_binding
from headrace.contract import kafka
from headrace.errors import HeadraceError
from headrace.operations.provision import kafka as in_kafka
from headrace.operations.provision import retirement
from headrace.operations.provision.changes import ConsentNeededError, ProvisionPlan, as_json, lines
from headrace.operations.provision.kafka import right_steps
from tests.support.kafka_admin import FakeKafka, done


class Kafka(FakeKafka):
    """With SCRAM users."""

    def __init__(self, *users: str) -> None:
        super().__init__()
        self.users = set(users)

    def describe_user_scram_credentials(self, users: list[str]) -> dict[str, Any]:
        def answer(user: str) -> Any:
            if user in self.users:
                return done(SimpleNamespace(scram_credential_infos=["one"]))
            future = type(done())()
            future.set_exception(KafkaException(KafkaError(KafkaError.RESOURCE_NOT_FOUND)))
            return future

        return {user: answer(user) for user in users}

    def alter_user_scram_credentials(self, changes: list[Any]) -> dict[str, Any]:
        self.users -= {change.user for change in changes}
        return {}


class Cassandra:
    """With roles: name -> is a superuser."""

    def __init__(self, **roles: bool) -> None:
        self.roles = roles

    def execute(self, statement: str, values: tuple[str, ...] = ()) -> Any:
        if dropped := re.fullmatch(r'DROP ROLE IF EXISTS "(\w+)"', statement):
            self.roles.pop(dropped[1], None)
            return None
        known = self.roles.get(values[0])
        return SimpleNamespace(one=lambda: None if known is None else SimpleNamespace(is_superuser=known))


class Servers:
    """Both servers and the bindings of a pipeline called old_sales."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.admin = root / "bindings", root / "bindings" / "admin"
        self.kafka, self.cassandra = Kafka("old_sales", "pos_sales"), Cassandra(old_sales=False, boss=True)
        self.living: list[str] = []
        for user in ("admin", "old_sales", "pos_sales"):
            for system in ("kafka", "cassandra"):
                write_binding(self.root / user / system, {"username": user, "password": "secret"})
        kafka_login = {"bootstrapServers": "k:1", "securityProtocol": "PLAINTEXT", "saslMechanism": "PLAIN"}
        write_binding(self.admin / "kafka", kafka_login)
        write_binding(self.admin / "cassandra", {"contactPoints": "c", "port": "1", "localDatacenter": "d"})

        @contextmanager
        def session(_: Path) -> Iterator[Cassandra]:
            yield self.cassandra

        monkeypatch.setattr(in_kafka, "kafka_admin", lambda _: self.kafka)
        monkeypatch.setattr(retirement, "cassandra_session", session)

    def plan(self, pipeline: str = "old_sales", known: tuple[str, ...] = ("pos_sales",)) -> Any:
        launcher: Any = SimpleNamespace(find=lambda name: self.living.count(name))
        return retirement.planned(pipeline, known, launcher, self.admin, self.root)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    fakes = Servers(tmp_path, monkeypatch)
    for user in ("old_sales", "pos_sales"):
        ProvisionPlan(right_steps(fakes.kafka, user, user, kafka.producer_acls(user, ["pos"]))).carry_out()
    return fakes


def test_a_plan_comes_first_and_names_the_command_that_carries_it_out(servers: Servers) -> None:
    with servers.plan() as plan:
        assert [str(change) for change in plan.changes] == [
            "- right revoked pos: topic: DESCRIBE, WRITE",
            "- login old_sales in Kafka (its driver can no longer log in)",
            "- login old_sales in Cassandra, with its rights (its driver can no longer log in)",
            "- bindings old_sales",
        ]
        command = "headrace provision --retire old_sales --consent old_sales"
        assert lines(plan)[-1] == f"Need consent: 2. If that is intended: `{command}`."
        assert as_json(plan)["command"] == command
        with pytest.raises(
            ConsentNeededError, match="Nothing was changed, because old_sales would lose its logins"
        ) as refused:
            plan.carry_out()
    assert command in str(refused.value)
    assert servers.kafka.users == {"old_sales", "pos_sales"}
    assert (servers.root / "old_sales").is_dir()


def test_with_consent_user_rights_role_and_bindings_go_and_nothing_of_another_pipeline(servers: Servers) -> None:
    with servers.plan() as plan:
        plan.carry_out(["old_sales"])
    assert servers.kafka.users == {"pos_sales"}
    assert {acl.principal for acl in servers.kafka.acls} == {"User:pos_sales"}
    assert servers.cassandra.roles == {"boss": True}
    assert sorted(path.name for path in servers.root.iterdir()) == ["admin", "pos_sales"]
    with servers.plan() as plan:
        assert plan.changes == []
        assert plan.carry_out() == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pos_sales", "pos_sales has a pipeline file. Remove the file before you retire the pipeline"),
        ("admin", "'admin' is not a valid pipeline name"),
        ("producer-till", "'producer-till' is not a valid pipeline name"),
        ("../x", "'../x' is not a valid pipeline name"),
        ("boss", "The Cassandra role boss is a superuser, so it belongs to no pipeline"),
    ],
)
def test_what_is_no_retired_pipeline_is_refused(servers: Servers, name: str, says: str) -> None:
    with pytest.raises(HeadraceError) as refused, servers.plan(name):
        pass
    assert says in str(refused.value)


def test_a_pipeline_whose_driver_runs_is_stopped_first(servers: Servers) -> None:
    servers.living.append("old_sales")
    with pytest.raises(HeadraceError, match="Stop it first with `headrace stream stop old_sales`"), servers.plan():
        pass


def test_the_login_of_the_administrator_is_never_removed(servers: Servers) -> None:
    write_binding(servers.admin / "cassandra", {"username": "root_user"})
    with pytest.raises(HeadraceError, match="root_user is the administrator's own login"), servers.plan("root_user"):
        pass


def test_what_is_left_of_a_removed_file_is_found_by_its_bindings(servers: Servers, tmp_path: Path) -> None:
    assert retirement.leftovers(servers.root, ["pos_sales"]) == ["old_sales"]
    assert retirement.leftovers(servers.root, ["pos_sales", "old_sales"]) == []
    assert retirement.leftovers(tmp_path / "none", []) == []
