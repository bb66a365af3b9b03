"""Which topic a generation reads: Kafka's id of each source topic (KIP-516), kept next to the generation's manifest.

A reader knows a topic only by name. A topic that was deleted and recreated counts from 0 again. A query that continues
at its old offset skips the first records of the new topic without an error once the new topic has grown past that
offset. So the id is compared before a driver starts and around each batch.

The ids have their own file because older releases, which do not know them, must be able to read the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.contract.exit_codes import Exit
from headrace.errors import HeadraceError
from headrace.store import small_files
from headrace.store.paths import GenerationPaths

TopicIds = dict[str, str]
"""topic -> Kafka topic id."""

REPLACED = "was deleted and recreated"
"""Part of every message about a replaced topic: a driver whose query ends with it is REFUSED."""


def read(paths: GenerationPaths) -> TopicIds:
    """Return the topic ids of a generation; empty if no release that records ids has started it yet."""
    ids: TopicIds = small_files.read_json(paths.topics) or {}
    return ids


def replaced(known: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the topics whose id has changed; a topic that only one side knows cannot be compared."""
    return sorted(topic for topic, topic_id in now.items() if known.get(topic, topic_id) != topic_id)


def require_same(paths: GenerationPaths, now: Mapping[str, str], pipeline: str) -> None:
    """Raise HeadraceError(REFUSED) if a topic of the generation was replaced; record the ids that it does not have yet."""
    known = read(paths)
    refuse(known, now, pipeline)
    if now.keys() - known.keys():
        small_files.write_json(paths.topics, dict(now) | known)


def refuse(known: Mapping[str, str], now: Mapping[str, str], pipeline: str) -> None:
    """Raise HeadraceError(REFUSED) if a topic was replaced, with the command that begins with the new one."""
    for topic in replaced(known, now):
        raise HeadraceError(sentence(topic, known[topic], now[topic], pipeline), exit_code=Exit.REFUSED)


def sentence(topic: str, known: str, now: str, pipeline: str) -> str:
    """Return the error message about a replaced topic."""
    return (
        f"Topic {topic} {REPLACED} (its id was {known} and is now {now}). A query that continues would skip its first records. "
        f"Read it from its beginning: headrace stream start {pipeline} --new-generation all --rows keep. "
        "See docs/runbooks/CheckpointOffsetsGone.md for what happens to the archive and the sinks."
    )
