"""Kafka as provisioning sees it, by a stand-in for confluent-kafka's admin client."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding


def done(value: object = None) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@dataclass
class FakeKafka:
    """Topics (settings, replicas of each partition) and rules, as confluent-kafka's admin client gives and takes them."""

    topics: dict[str, dict[str, str]] = field(default_factory=dict)
    partitions: dict[str, list[int]] = field(default_factory=dict)
    acls: set[AclBinding] = field(default_factory=set)

    def list_topics(self, timeout: float) -> Any:
        def shown(name: str) -> Any:
            replicas = dict(enumerate(SimpleNamespace(replicas=list(range(n))) for n in self.partitions[name]))
            return SimpleNamespace(partitions=replicas)

        return SimpleNamespace(topics={name: shown(name) for name in self.topics})

    def create_topics(self, topics: list[Any], **_: object) -> dict[str, Future[Any]]:
        for topic in topics:
            if topic.topic in self.topics:
                raise KafkaException(KafkaError(KafkaError.TOPIC_ALREADY_EXISTS))
            self.topics[topic.topic] = dict(topic.config)
            self.partitions[topic.topic] = [topic.replication_factor] * topic.num_partitions
        return {}

    def create_partitions(self, news: list[Any], **_: object) -> dict[str, Future[Any]]:
        for new in news:
            if new.new_total_count <= len(self.partitions[new.topic]):
                raise KafkaException(KafkaError(KafkaError.INVALID_PARTITIONS))
            self.partitions[new.topic] = self.partitions[new.topic][:1] * new.new_total_count
        return {}

    def describe_configs(self, resources: list[Any]) -> dict[Any, Future[Any]]:
        def shown(name: str) -> dict[str, Any]:
            return {key: SimpleNamespace(value=value) for key, value in self.topics[name].items()}

        return {resource: done(shown(resource.name)) for resource in resources}

    def incremental_alter_configs(self, resources: list[Any]) -> dict[str, Future[Any]]:
        for resource in resources:
            self.topics[resource.name] |= {entry.name: entry.value for entry in resource.incremental_configs}
        return {}

    def describe_acls(self, wanted: Any) -> Future[Any]:
        return done([acl for acl in self.acls if acl.principal == wanted.principal])

    def create_acls(self, acls: list[AclBinding]) -> dict[str, Future[Any]]:
        self.acls |= set(acls)
        return {}

    def delete_acls(self, filters: list[Any]) -> dict[str, Future[Any]]:
        gone = {(acl.restype, acl.name, acl.operation, acl.principal) for acl in filters}
        self.acls = {acl for acl in self.acls if (acl.restype, acl.name, acl.operation, acl.principal) not in gone}
        return {}
