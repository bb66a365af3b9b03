"""A producer's binding: filled once, in its own namespace, with a login of its own that provisioning knows."""

from __future__ import annotations

import pytest

from headrace.cluster.bootstrap import Bootstrap, Config, Producer
from headrace.errors import HeadraceError
from tests.cluster_jobs.test_bootstrap import Kept
from tests.cluster_jobs.test_bootstrap import config as bundled  # noqa: F401 - a fixture

PLACE = ("shop", "kafka-producer-webshop")


class Beside(Kept):
    """Secrets among which the chart made an empty one; the Job may write that one and no other."""

    def replace(self, namespace: str, name: str, content: dict[str, str]) -> None:
        if (namespace, name) == PLACE:
            self.content[PLACE] = dict(content)
        else:
            super().replace(namespace, name, content)


@pytest.fixture
def kept() -> Beside:
    return Beside(content={PLACE: {}})


@pytest.fixture
def config(bundled: Config) -> Config:  # noqa: F811 - the fixture
    return bundled.model_copy(
        update={"producers": {"webshop": Producer(namespace="shop", topics=["pos", "quickstart"])}}
    )


def test_a_producers_secret_is_filled_once_and_its_login_is_what_provisioning_gives(
    config: Config, kept: Beside
) -> None:
    changed = Bootstrap(config, kept).run()
    assert "/".join(PLACE) in changed
    filled, admin = dict(kept.content[PLACE]), kept.content["airflow", "kafka-admin"]
    assert filled["username"] == "producer-webshop"
    assert filled["password"] != admin["password"]
    assert {key: filled[key] for key in admin if key not in ("username", "password")} == {
        key: admin[key] for key in admin if key not in ("username", "password")
    }
    logins = kept.content["airflow", "pipeline-logins"]
    assert logins["producer-webshop.kafka.password"] == filled["password"]
    assert Bootstrap(config, kept).run() == []
    assert kept.content[PLACE] == filled


def test_a_producer_that_comes_later_changes_nobody_elses_login(config: Config, kept: Beside) -> None:
    Bootstrap(config.model_copy(update={"producers": {}}), kept).run()
    before = {place: dict(content) for place, content in kept.content.items()}
    assert Bootstrap(config, kept).run() == ["/".join(PLACE), "airflow/pipeline-logins"]
    for place, content in before.items():
        if place != PLACE:
            assert kept.content[place] | content == kept.content[place]


@pytest.mark.parametrize(("only", "rotated"), [((), True), (("webshop",), True), (("pos_sales",), False)])
def test_a_producers_password_is_rotated_with_all_or_by_its_name(
    config: Config, kept: Beside, only: tuple[str, ...], rotated: bool
) -> None:
    Bootstrap(config, kept).run()
    old = kept.content[PLACE]["password"]
    kept.writable = True
    Bootstrap(config, kept, "rotate-passwords", frozenset(only)).run()
    new = kept.content[PLACE]["password"]
    assert (new != old) == rotated
    assert kept.content["airflow", "pipeline-logins"]["producer-webshop.kafka.password"] == new


def test_a_producer_that_is_dropped_leaves_its_users_name_and_no_password(config: Config, kept: Beside) -> None:
    Bootstrap(config, kept).run()
    for _ in range(2):
        Bootstrap(config.model_copy(update={"producers": {}}), kept).run()
        logins = kept.content["airflow", "pipeline-logins"]
        of_producers = {key: value for key, value in logins.items() if key.startswith("producer")}
        assert of_producers == {"producer-webshop.kafka.username": "producer-webshop"}


def test_a_topic_that_no_pipeline_reads_is_refused_with_those_that_are(config: Config, kept: Beside) -> None:
    strange = {"webshop": Producer(namespace="shop", topics=["pos", "orders", "pos_dead_letters"])}
    with pytest.raises(HeadraceError, match=r"webshop would write orders, pos_dead_letters, .* quickstart"):
        Bootstrap(config.model_copy(update={"producers": strange}), kept).run()
    assert kept.content[PLACE] == {}
