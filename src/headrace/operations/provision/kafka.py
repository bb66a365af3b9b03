"""Compare Kafka with a pipeline's declaration: topics, their settings, rights. Returns steps that change it.

Kafka's controller answers to a change before the brokers have it. A step ends when a broker shows its change: what comes
next, such as a login, a record or a second plan, then finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from headrace.access.bindings import read_kafka
from headrace.contract import kafka, names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.clients import kafka_admin
from headrace.operations.provision.changes import RIGHT, Action, Change, ProvisionStep
from headrace.operations.waiting import poll

TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.05
SCRAM_ITERATIONS = 4096
ADOPTED = "it was not created by Headrace, whose settings it gets"


@contextmanager
def administering(admin_root: Path) -> Iterator[AdminClient]:
    """Yield Kafka's admin client of a binding root. Raises HeadraceError, with Kafka's reason, for a request that it rejects."""
    try:
        yield kafka_admin(admin_root)
    except KafkaException as error:
        raise HeadraceError(
            f"Kafka at {read_kafka(admin_root).bootstrap_servers} rejected the request: {error.args[0].str()}. Check "
            "`headrace status`."
        ) from error


def topic_steps(
    admin: AdminClient, pipeline: Pipeline, replication_factor: int, planned: Collection[str] = ()
) -> list[ProvisionStep]:
    """Return the steps that create or change the topics as declared, except those that are `planned` already.

    Two pipelines of a chain declare its topic, with equal settings (ADR 28): a second step to create it would fail.

    A topic is ours if the pipeline's user has a right on it, which provisioning grants to no other user, or if all its
    settings already match.
    """
    wanted = [topic for topic in kafka.topics(pipeline, replication_factor) if topic.name not in planned]
    existing = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    missing = [topic for topic in wanted if topic.name not in existing]
    present = [topic for topic in wanted if topic.name in existing]
    settings = _settings(admin, [topic.name for topic in present])
    known = {acl.name for acl in acls_of(admin, names.principal(pipeline.name)) if acl.restype == ResourceType.TOPIC}
    steps = [_created(admin, pipeline.name, topic, replication_factor) for topic in missing]
    for topic in present:
        partitions = existing[topic.name].partitions
        copies = min((len(difference.replicas) for difference in partitions.values()), default=replication_factor)
        differences = kafka.differences(topic, settings[topic.name], len(partitions), copies)
        if topic.name not in known and any(difference.setting != kafka.PARTITIONS for difference in differences):
            adopted = Change(pipeline.name, "topic", topic.name, "change", "adopt", ADOPTED)
            steps.append(ProvisionStep(adopted, lambda: None))
        steps += [_altered(admin, pipeline.name, topic.name, difference) for difference in differences]
    return steps


def _created(admin: AdminClient, pipeline: str, topic: kafka.Topic, replication_factor: int) -> ProvisionStep:
    new = NewTopic(topic.name, topic.partitions, replication_factor, config=topic.config)

    def create() -> None:
        wait(admin.create_topics([new], operation_timeout=TIMEOUT_SECONDS))
        _await(lambda: _partitions(admin, topic.name) == topic.partitions, f"topic {topic.name}")

    return ProvisionStep(Change(pipeline, "topic", topic.name, "add", f"{topic.partitions} partitions"), create)


def _altered(admin: AdminClient, pipeline: str, topic: str, difference: kafka.TopicDifference) -> ProvisionStep:
    partitions = difference.setting == kafka.PARTITIONS

    def alter() -> None:
        if partitions:
            new = NewPartitions(topic, int(difference.wanted))
            wait(admin.create_partitions([new], operation_timeout=TIMEOUT_SECONDS))
            _await(lambda: _partitions(admin, topic) == int(difference.wanted), f"the partitions of topic {topic}")
            return
        entry = ConfigEntry(difference.setting, difference.wanted, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        wait(admin.incremental_alter_configs([resource]))
        _await(
            lambda: _settings(admin, [topic])[topic].get(difference.setting) == difference.wanted,
            f"{difference.setting} of topic {topic}",
        )

    refusal = f"Topic {topic} of pipeline {pipeline} {difference.refusal}" if difference.refusal else ""
    kind = "partitions" if partitions else "topic settings"
    change = Change(pipeline, kind, topic, "change", str(difference), difference.risk, refusal)
    return ProvisionStep(change, alter)


def _settings(admin: AdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    descriptions = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics])
    return {
        resource.name: {name: entry.value for name, entry in future.result(TIMEOUT_SECONDS).items()}
        for resource, future in descriptions.items()
    }


def acls_of(admin: AdminClient, user: str) -> set[AclBinding]:
    """Return every rule that names a user."""
    mine = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY
    )
    return set(admin.describe_acls(mine).result(TIMEOUT_SECONDS))


def right_steps(admin: AdminClient, owner: str, user: str, wanted: Iterable[kafka.Acl]) -> list[ProvisionStep]:
    """Return the steps that revoke a user's unwanted rights and grant the missing ones; `owner` is used in messages."""
    existing, rules = acls_of(admin, user), set(map(_binding, wanted))

    def revoke(acls: list[AclBinding]) -> None:
        wait(admin.delete_acls(list(map(_exactly, acls))))
        _await(lambda: not acls_of(admin, user) & set(acls), f"that {user} has lost rights")

    def grant(acls: list[AclBinding]) -> None:
        wait(admin.create_acls(acls))
        _await(lambda: acls_of(admin, user) >= set(acls), f"the rights of {user}")

    return [
        *_right_steps(owner, "remove", existing - rules, revoke),
        *_right_steps(owner, "add", rules - existing, grant),
    ]


def _right_steps(
    owner: str, action: Action, acls: Iterable[AclBinding], act: Callable[[list[AclBinding]], None]
) -> Iterator[ProvisionStep]:
    def place(acl: AclBinding) -> tuple[str, str]:
        return acl.restype.name.lower(), acl.name

    for (kind, name), group in groupby(sorted(acls, key=lambda acl: (place(acl), acl.operation.name)), place):
        rules = list(group)
        detail = f"{kind}: {', '.join(sorted({acl.operation.name for acl in rules}))}"
        yield ProvisionStep(Change(owner, RIGHT[action], name, action, detail), partial(act, rules))


def set_user(admin: AdminClient, user: str, password: str) -> None:
    """Create a SCRAM user, or set its password."""
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    wait(admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, scram, password.encode())]))
    _await(lambda: has_user(admin, user), f"user {user}")


def has_user(admin: AdminClient, user: str) -> bool:
    """Return whether a SCRAM user exists."""
    credentials = admin.describe_user_scram_credentials([user])
    try:
        return bool(credentials[user].result(TIMEOUT_SECONDS).scram_credential_infos)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.RESOURCE_NOT_FOUND:
            raise
        return False


def drop_user(admin: AdminClient, user: str) -> None:
    """Remove a SCRAM user, if it exists."""
    try:
        wait(admin.alter_user_scram_credentials([UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)]))
    except KafkaException as error:
        if error.args[0].code() != KafkaError.RESOURCE_NOT_FOUND:
            raise
    _await(lambda: not has_user(admin, user), f"that user {user} is gone")


def _binding(acl: kafka.Acl) -> AclBinding:
    return AclBinding(
        ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType[acl.pattern.upper()],
        acl.principal,
        "*",
        AclOperation[acl.operation],
        AclPermissionType.ALLOW,
    )


def _exactly(acl: AclBinding) -> AclBindingFilter:
    """Return the filter that matches exactly one rule."""
    return AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
    )


def _partitions(admin: AdminClient, topic: str) -> int:
    """Return how many partitions a broker shows of a topic; 0 if it does not show the topic."""
    shown = admin.list_topics(timeout=TIMEOUT_SECONDS).topics.get(topic)
    return len(shown.partitions) if shown else 0


def _await(holds: Callable[[], bool], what: str) -> None:
    """Wait until a broker shows a change that the controller has accepted. Raises HeadraceError if it does not in time."""
    if not poll(holds, TIMEOUT_SECONDS, POLL_SECONDS):
        raise HeadraceError(f"Kafka accepted {what}, but does not show it after {TIMEOUT_SECONDS} s. Try again.")


def wait(futures: Mapping[Any, Any]) -> None:
    """Wait for all answers. Raises KafkaException for the first error."""
    for future in futures.values():
        future.result(TIMEOUT_SECONDS)
