"""Which topic a generation reads: Kafka's id of each source topic (KIP-516), kept beside the generation's manifest.

A reader knows a topic by its name only. One that was deleted and made again counts from 0, so a query that goes on at its
old offset passes over the new topic's first records without any error, once the new topic is longer than that. So the id is
compared before a driver starts and around each batch.

The file is apart from the manifest because a release that does not know it must be able to read the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.contract import storage
from headrace.contract.exits import Exit
from headrace.contract.paths import GenerationPaths
from headrace.errors import HeadraceError

TopicIds = dict[str, str]
"""topic -> Kafka's id of it."""

REPLACED = "was deleted and made again"
"""Stands in every message about it: a driver whose query ends with one is REFUSED."""


def read(own: GenerationPaths) -> TopicIds:
    """Return the ids that a generation reads; empty for one that no driver with ids has started yet."""
    found: TopicIds = storage.read_json(own.topics) or {}
    return found


def replaced(known: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the topics whose id is another one now; a topic that only one side knows cannot be compared."""
    return sorted(topic for topic, found in now.items() if known.get(topic, found) != found)


def require_same(own: GenerationPaths, now: Mapping[str, str], pipeline: str) -> None:
    """Raise HeadraceError(REFUSED) where a topic of the generation is another one now; keep the ids that it has not yet."""
    known = read(own)
    refuse(known, now, pipeline)
    if now.keys() - known.keys():
        storage.write_json(own.topics, dict(now) | known)


def refuse(known: Mapping[str, str], now: Mapping[str, str], pipeline: str) -> None:
    """Raise HeadraceError(REFUSED) where a topic is another one now, with the command that begins with the new one."""
    for topic in replaced(known, now):
        raise HeadraceError(sentence(topic, known[topic], now[topic], pipeline), exit_code=Exit.REFUSED)


def sentence(topic: str, known: str, now: str, pipeline: str) -> str:
    """Return what is said of a topic that is another one now."""
    return (
        f"Topic {topic} {REPLACED} (its id was {known} and is {now}): a query that goes on would pass over its first records. "
        f"Read it from its beginning: headrace stream start {pipeline} --new-generation all --rows keep. "
        "See docs/runbooks/CheckpointOffsetsGone.md for what becomes of the archive and the sinks."
    )
