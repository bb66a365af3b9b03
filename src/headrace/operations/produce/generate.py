"""The event generator: seeded, pure, of any length and size, in constant memory.

The same mix and start produce the same bytes (with one numpy version, which the lock file fixes). Each topic has its own
seed: leaving one out does not change the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import datetime
from operator import attrgetter

import numpy as np

from headrace.operations.produce.accidents import finish
from headrace.operations.produce.accounts import logins_drafts
from headrace.operations.produce.ads import clicks_drafts, impressions_drafts
from headrace.operations.produce.mix import TOPICS, Mix
from headrace.operations.produce.record import Record
from headrace.operations.produce.shop import pos_drafts
from headrace.operations.produce.timeline import Draft, Timeline
from headrace.operations.produce.web import quickstart_drafts

_DRAFTS = {
    "quickstart": quickstart_drafts,
    "pos": pos_drafts,
    "logins": logins_drafts,
    "impressions": impressions_drafts,
}
_PURPOSES = ("drafts", "accidents")


def generate(mix: Mix, start: datetime) -> Iterator[Record]:
    """Yield the records of all topics of the mix, ordered by `planned_at` (seconds after `start`, a timezone-aware datetime).

    Event times never exceed `start + planned_at`, except for malformed:far_future. `kind` says how a record was generated,
    not how a pipeline treats it: a click on a late impression is still a normal click.
    """
    line = timeline(mix, start)
    streams = [finish(topic, _drafts(topic, mix, line), mix, _rng(mix, topic, "accidents")) for topic in mix.topics]
    return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=attrgetter("planned_at"))


def timeline(mix: Mix, start: datetime) -> Timeline:
    """Return how the mix maps planned times to event times when it begins at `start`."""
    catch_up = min(mix.catch_up or mix.duration, mix.duration)
    return Timeline(start.timestamp(), mix.since.total_seconds(), catch_up, mix.duration)


def _drafts(topic: str, mix: Mix, line: Timeline) -> Iterator[Draft]:
    if topic == "clicks":
        showings = _rng(mix, "impressions", "drafts")
        return clicks_drafts(mix, mix.counts["impressions"], line, showings, _rng(mix, topic, "drafts"))
    return _DRAFTS[topic](mix, mix.counts[topic], line, _rng(mix, topic, "drafts"))


def _rng(mix: Mix, topic: str, purpose: str) -> np.random.Generator:
    return np.random.default_rng([mix.seed, TOPICS.index(topic), _PURPOSES.index(purpose)])
