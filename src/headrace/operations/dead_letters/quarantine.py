"""The quarantine for operators: put offsets into it, and take them out again (ADR 49). The one writer of the document.

Both are plans (ADR 48), and both need a pipeline whose driver is stopped: a driver reads the document at its start.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.checkpoints import restore
from headrace.operations.checkpoints.verify import kafka_ranges
from headrace.operations.clients import kafka_admin
from headrace.operations.deployment import Deployment
from headrace.operations.plans import Approval, Item, Plan
from headrace.store import archive_notes, checkpoint_log, generation, ledger, topic_identity
from headrace.store import quarantine as kept
from headrace.store.checkpoint_log import Offsets
from headrace.store.generation import Generation
from headrace.store.quarantine import Entry, OffsetRange, Quarantine

MOST_OFFSETS = 10_000
"""The number of offsets in one range: their letters are written by one batch."""

REASON = "the transform fails on it"


def plan(
    deployment: Deployment, pipeline: Pipeline, query: str, ranges: Sequence[OffsetRange], reason: str = REASON
) -> Plan:
    """Return what putting offsets into the quarantine of a query would do. Changes nothing.

    Blocked while a driver can run, and by offsets that the query has committed, that Kafka does not hold, or that are in the
    quarantine. Raises HeadraceError for a query or topic that does not exist.
    """
    now = _current(deployment, pipeline, query, ranges)
    blockers = restore.blockers(deployment.launcher(), pipeline.name)
    committed = _taken(deployment.root, now)
    held = _held(deployment, ranges)
    entries = kept.passed_by(deployment.root, now)
    for part in ranges:
        blockers += _faults(part, committed, held.get((part.topic, part.partition)), entries)
    count = sum(part.size for part in ranges)
    notes = [
        f"{names.query_name(pipeline.name, query)} passes over {count} offsets. Each record there becomes a dead letter."
    ]
    if count > len(ranges):
        notes.append(
            "Rows that the failed batch has already sent for good records among them stay in the sinks: name only offsets that "
            "fail."
        )
    items = tuple(Item("pass over", str(part), reason) for part in ranges)
    return Plan("quarantine", names.query_name(pipeline.name, query), items, tuple(blockers), tuple(notes))


def act(
    deployment: Deployment,
    pipeline: Pipeline,
    query: str,
    ranges: Sequence[OffsetRange],
    reason: str,
    approval: Approval,
) -> None:
    """Put offsets into the quarantine of a query. Raises HeadraceError unless the current plan is the approved one."""
    plans.begin(deployment.root, plan(deployment, pipeline, query, ranges, reason), approval)
    now = _current(deployment, pipeline, query, ranges)
    ids = topic_identity.read(now.paths(deployment.root))
    added = tuple(
        Entry(
            topic=part.topic,
            partition=part.partition,
            first=part.first,
            last=part.last,
            query=query,
            reason=reason,
            by=approval.approved_by or approval.by,
            at_ms=time.time_ns() // 1_000_000,
            topic_id=ids.get(part.topic, ""),
            since=now.line,
        )
        for part in ranges
    )
    before = kept.read(deployment.root, pipeline.name)
    kept.write(deployment.root, pipeline.name, Quarantine((*before.entries, *added)))


def plan_release(deployment: Deployment, pipeline: Pipeline, query: str, ranges: Sequence[OffsetRange]) -> Plan:
    """Return what taking ranges out of the quarantine would do. Changes nothing.

    A range that the query has not reached is removed, and the query reads it. If the query has passed over it, the line of its
    generations keeps doing so, and the next new generation reads it.
    """
    now = _current(deployment, pipeline, query, ranges)
    entries = kept.passed_by(deployment.root, now)
    blockers = restore.blockers(deployment.launcher(), pipeline.name)
    blockers += [
        f"{part} of {query} is not in the quarantine: headrace dead-letters quarantine {pipeline.name}"
        for part in ranges
        if not _same(entries, part)
    ]
    taken, number = _taken(deployment.root, now), generation.next_number(deployment.root, pipeline.name, query)
    passed = [part for part in ranges if _is_taken(part, taken)]
    items = tuple(
        Item("take out", str(part), f"from generation {number} on" if part in passed else "before the query reaches it")
        for part in ranges
    )
    again = f"headrace stream start {pipeline.name} --new-generation {query} --rows keep"
    notes = (
        (f"The query has passed over {len(passed)} of these ranges. It reads them after: {again}",) if passed else ()
    )
    return Plan("quarantine", names.query_name(pipeline.name, query), items, tuple(blockers), notes)


def release(
    deployment: Deployment, pipeline: Pipeline, query: str, ranges: Sequence[OffsetRange], approval: Approval
) -> None:
    """Take ranges out of the quarantine. Raises HeadraceError unless the current plan is the approved one."""
    plans.begin(deployment.root, plan_release(deployment, pipeline, query, ranges), approval)
    now = _current(deployment, pipeline, query, ranges)
    taken, number = _taken(deployment.root, now), generation.next_number(deployment.root, pipeline.name, query)
    out = [entry for part in ranges for entry in _same(kept.passed_by(deployment.root, now), part)]
    entries: list[Entry] = []
    for entry in kept.read(deployment.root, pipeline.name).entries:
        if entry not in out:
            entries.append(entry)
        elif _is_taken(entry, taken):
            entries.append(replace(entry, until=number))
        elif entry.since < now.line:  # earlier lines have passed over it
            entries.append(replace(entry, until=now.line))
    kept.write(deployment.root, pipeline.name, Quarantine(tuple(entries)))


def _current(deployment: Deployment, pipeline: Pipeline, query: str, ranges: Sequence[OffsetRange]) -> Generation:
    """Return the generation of a query that must have run, and must read the topics of the ranges."""
    declared = pipeline.queries.get(query)
    if declared is None:
        known = ", ".join(pipeline.queries)
        raise HeadraceError(f"Unknown query {query!r} of {pipeline.name}. Queries that pass over records: {known}.")
    wrong = [part.topic for part in ranges if part.topic not in declared.sources]
    if wrong:
        raise HeadraceError(f"{query} does not read topic {wrong[0]!r}. It reads {', '.join(declared.sources)}.")
    now = generation.current(deployment.root, pipeline.name, query)
    if now is None:
        raise HeadraceError(
            f"{names.query_name(pipeline.name, query)} never ran. Start it first: headrace stream start {pipeline.name}"
        )
    return now


def _taken(root: str, now: Generation) -> Offsets:
    """Return the end offsets of what a generation has committed, or has written to its sinks without a commit of Spark."""
    folders = now.paths(root)
    committed = checkpoint_log.newest_batch(folders.checkpoint)
    newest = ledger.newest(folders.ledger)
    return archive_notes.latest(
        checkpoint_log.ends(folders.checkpoint, committed), ledger.ends(newest) if newest else {}
    )


def _held(deployment: Deployment, ranges: Sequence[OffsetRange]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return (topic, partition) -> (first offset, end) of what Kafka holds; a partition that does not exist is left out."""
    try:
        return kafka_ranges(kafka_admin(deployment.bindings), _partitions(ranges))
    except KafkaException as error:
        if error.args[0].code() == KafkaError._NOENT:  # none of the partitions has a leader
            return {}
        raise HeadraceError(
            f"Kafka does not answer ({error.args[0]}). Check `headrace status`, then repeat."
        ) from error


def _is_taken(part: OffsetRange, taken: Offsets) -> bool:
    return part.first < taken.get(part.topic, {}).get(part.partition, 0)


def _partitions(ranges: Sequence[OffsetRange]) -> Offsets:
    return {topic: {part.partition: 0 for part in ranges if part.topic == topic} for topic in {p.topic for p in ranges}}


def _faults(part: OffsetRange, committed: Offsets, held: tuple[int, int] | None, entries: Sequence[Entry]) -> list[str]:
    """Return why a range cannot be put into the quarantine, each with its remedy."""
    if held is None:
        return [f"topic {part.topic} has no partition {part.partition}: name another one"]
    faults = []
    begin, end = held
    if part.first < begin or part.last >= end:
        faults.append(
            f"{part}: Kafka holds the offsets {begin} to {end - 1} of {part.topic}/{part.partition}: name those"
        )
    if _is_taken(part, committed):
        past = committed[part.topic][part.partition]
        faults.append(f"{part}: the query has committed its records before offset {past}: name offsets from there on")
    if part.size > MOST_OFFSETS:
        faults.append(
            f"{part} has {part.size} offsets, at most {MOST_OFFSETS} are allowed: name only offsets that fail"
        )
    if any(_overlap(part, entry) for entry in entries):
        faults.append(f"{part} is in the quarantine already, or a part of it: name the others")
    return faults


def _overlap(one: OffsetRange, other: OffsetRange) -> bool:
    same = (one.topic, one.partition) == (other.topic, other.partition)
    return same and one.first <= other.last and other.first <= one.last


def _same(entries: Sequence[Entry], part: OffsetRange) -> list[Entry]:
    return [entry for entry in entries if str(entry) == str(part)]
