"""The newest records of a topic, as a sample for a new pipeline."""

from __future__ import annotations

from pathlib import Path

from headrace.errors import HeadraceError
from headrace.operations import topics
from headrace.operations.pipelines.sample import MOST_RECORDS
from headrace.operations.quality.offsets import TopicOffsets


def records(bindings: Path, topic: str, most: int = MOST_RECORDS) -> list[bytes]:
    """Return the values of at most `most` newest records, shared evenly by the partitions.

    Raises HeadraceError for a topic that is missing or empty, and where Kafka does not answer.
    """
    with topics.reader(bindings, topic, "sample") as consumer:
        offsets = TopicOffsets(consumer)
        begins, ends = offsets.begins(topic), offsets.ends(topic)
        share = max(1, most // max(1, len(ends)))
        ranges = {partition: (max(begins[partition], end - share), end) for partition, end in ends.items()}
        messages = [message.value() for message in topics.between(consumer, topic, ranges)]
    values = [value for value in messages if value][:most]
    if not values:
        raise HeadraceError(f"The topic {topic} has no record. Send some, or give a file with --from.")
    return values
