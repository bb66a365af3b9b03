from __future__ import annotations

from headrace.contract.kafka import Acl, Topic, acls, topics
from headrace.contract.model import Pipeline


def test_a_pipeline_owns_its_sources_their_dead_letters_and_its_sinks(pipelines: dict[str, Pipeline]) -> None:
    expected = {
        "ad_attribution": [
            "attributed", "clicks", "clicks_dead_letters", "impressions", "impressions_dead_letters",
        ],
        "pos_sales": ["pos", "pos_dead_letters", "pos_final_windows", "pos_items"],
        "user_logins": ["logins", "logins_dead_letters"],
        "web_events": ["quickstart", "quickstart_dead_letters", "transformed"],
    }  # fmt: skip
    assert {name: [topic.name for topic in topics(pipelines[name])] for name in expected} == expected


def test_a_source_topic_has_its_complete_configuration(pipelines: dict[str, Pipeline]) -> None:
    assert topics(pipelines["pos_sales"])[0] == Topic(
        "pos",
        2,
        {
            "cleanup.policy": "delete",
            "compression.type": "producer",
            "max.message.bytes": "1048588",
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": "1",
            "retention.ms": "604800000",
            "unclean.leader.election.enable": "false",
        },
    )


def test_dead_letters_outlive_their_topic_and_hold_its_largest_record(good: Pipeline) -> None:
    by_name = {topic.name: topic.config for topic in topics(good)}
    source, dead = by_name["sales"], by_name["sales_dead_letters"]
    assert int(dead["retention.ms"]) == 30 * 86_400_000 > int(source["retention.ms"])
    assert int(dead["max.message.bytes"]) > 2 * int(source["max.message.bytes"])


def test_an_acknowledged_record_is_on_two_of_three_replicas(good: Pipeline) -> None:
    for replicas, insync in ((1, "1"), (2, "1"), (3, "2")):
        assert {topic.config["min.insync.replicas"] for topic in topics(good, replicas)} == {insync}


def test_a_driver_may_read_its_sources_and_write_its_sinks_and_nothing_else(pipelines: dict[str, Pipeline]) -> None:
    user = "User:pos_sales"
    assert acls(pipelines["pos_sales"]) == [
        Acl(user, "topic", "pos", "literal", "DESCRIBE"),
        Acl(user, "topic", "pos", "literal", "READ"),
        Acl(user, "topic", "pos_dead_letters", "literal", "DESCRIBE"),
        Acl(user, "topic", "pos_dead_letters", "literal", "WRITE"),
        Acl(user, "topic", "pos_final_windows", "literal", "DESCRIBE"),
        Acl(user, "topic", "pos_final_windows", "literal", "WRITE"),
        Acl(user, "topic", "pos_items", "literal", "DESCRIBE"),
        Acl(user, "topic", "pos_items", "literal", "WRITE"),
        Acl(user, "group", "headrace.pos_sales.", "prefixed", "READ"),
    ]


def test_no_group_prefix_covers_another_pipelines_groups(pipelines: dict[str, Pipeline]) -> None:
    prefixes = [acl.name for pipeline in pipelines.values() for acl in acls(pipeline) if acl.pattern == "prefixed"]
    assert all(prefix.endswith(".") for prefix in prefixes)
    assert not any(one != other and one.startswith(other) for one in prefixes for other in prefixes)
