"""Kafka's controller answers before the brokers have a change: a step of provisioning ends when a broker shows it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract import kafka
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.provision import kafka as in_kafka
from headrace.operations.provision.changes import ProvisionPlan
from headrace.operations.provision.kafka import right_steps, topic_steps
from tests.support.kafka_admin import FakeKafka, done


@dataclass
class LateKafka(FakeKafka):
    """Shows no topic and no rule until it was asked `late` times."""

    late: int = 0

    def _is_late(self) -> bool:
        self.late -= 1
        return self.late >= 0

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={}) if self._is_late() else super().list_topics(timeout)

    def describe_acls(self, wanted: Any) -> Any:
        return done([]) if self._is_late() else super().describe_acls(wanted)


def test_a_topic_and_a_right_are_awaited_until_a_broker_shows_them(
    good: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_kafka, "POLL_SECONDS", 0)
    admin = LateKafka()
    rights = right_steps(admin, good.name, good.name, kafka.acls(good))
    for step in ProvisionPlan([*topic_steps(admin, good, 1), *rights]).steps:
        admin.late = 3
        step.apply()
        assert admin.late < 0, "it did not wait"
    again = right_steps(admin, good.name, good.name, kafka.acls(good))
    assert (topic_steps(admin, good, 1), again) == ([], [])


def test_a_change_that_no_broker_shows_is_an_error(good: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_kafka, "TIMEOUT_SECONDS", 0)
    admin = LateKafka(late=10**9)
    with pytest.raises(HeadraceError, match=r"Kafka accepted topic .*, but does not show it after 0 s"):
        topic_steps(admin, good, 1)[0].apply()
