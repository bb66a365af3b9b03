"""Replay dead letters into their source topic after the cause is fixed: each letter once, and never in a loop.

A replayed record is a new record: it is archived, and accepted or refused, under its own coordinates, so archive =
accepted + dead letters still holds. Its header `headrace.replay_of` has the first coordinates. A letter of a record that
was itself a replay is a repeated failure: it is shown as such and left out unless requested.

If a query, not the contract, refused a letter, its record was accepted: every other query of the topic has read it and
would read it twice. Such a letter is replayed only if there is no other query.

Each plan of a replay is stored as a journal below the storage root, under the plan's id (ADR 48): letters that arrive later do
not change it, and an interrupted replay is completed by the same id, which first looks up in the topic which letters were sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaError, Producer

from headrace.access.bindings import read_kafka
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations import plans
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters.reader import Filter, Letter
from headrace.operations.plans import Approval, Item, Plan
from headrace.operations.produce.send import producer_config
from headrace.operations.supervisor.observe import KafkaEnds
from headrace.store import paths, records, small_files

HEADER_REPLAY_OF = "headrace.replay_of"
HEADER_REPLAY = "headrace.replay"
MAX_LETTERS = 10_000
ACKNOWLEDGED_SECONDS = 60.0


@dataclass(frozen=True)
class Journal:
    """One replay on disk. `run` is the id of its plan (a name in journals of earlier releases); `ids` are those of its letters.

    `first` is letter id -> first coordinates, `starts` partition -> end of the topic when the replay began, `sent` letter id ->
    coordinates of the new record.
    """

    run: str
    topic: str
    by: str = ""
    at_ms: int = 0
    again: bool = False
    ids: tuple[str, ...] = ()
    first: dict[str, str] = field(default_factory=dict)
    starts: Mapping[int, int] = records.key("from", factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    state: Literal["planned", "running", "done"] = "planned"


@dataclass(frozen=True)
class Replayed:
    """The result of a replay: how many letters of its plan were sent, in all tries together."""

    plan: str
    topic: str
    sent: int


@dataclass(frozen=True)
class ReplayHistory:
    """The history from a topic's journals: which letters were replayed, and which records are replays of which."""

    replayed: Mapping[str, str]  # letter id -> run
    replays: Mapping[str, str]  # coordinates of a replayed record -> first coordinates


def history(root: str, topic: str) -> ReplayHistory:
    """Return everything that was replayed into a topic so far, by all runs that were begun."""
    replayed: dict[str, str] = {}
    replays: dict[str, str] = {}
    for journal in journals(root, topic):
        if journal.state != "planned":
            replayed |= dict.fromkeys(journal.ids, journal.run)
            replays |= {new: journal.first[letter] for letter, new in journal.sent.items()}
    return ReplayHistory(replayed, replays)


def journals(root: str, topic: str) -> list[Journal]:
    """Return the journals of a topic's replays, oldest first."""
    folder = paths.replays(root, topic)
    listed = [name for name in small_files.list_names(folder) if name.endswith(".json")]
    entries = [records.read(Journal, f"{folder}/{name}") for name in listed]
    return sorted((journal for journal in entries if journal), key=lambda journal: (journal.at_ms, journal.run))


def plan(
    root: str,
    bindings: Path,
    topic: str,
    chosen: Filter = reader.ALL,
    *,
    readers: Collection[str],
    again: bool = False,
    limit: int = MAX_LETTERS,
    by: str = "",
) -> Plan:
    """Select the letters of a replay, store them as a journal under the plan's id, and return the plan. Nothing is sent.

    `readers` are the queries that read the topic (`readers_of`): a record that one of them has accepted is left out. `again`
    includes repeated failures and letters that an earlier run replayed. Notes say what is left out and why.
    """
    known = history(root, topic)
    planned = _select(known, bindings, topic, chosen, readers, again=again, limit=limit)
    before = _journal(root, topic, planned.id)
    if planned.items and (before is None or before.state == "planned"):
        ids = tuple(item.target for item in planned.items)
        first = {letter: known.replays.get(letter, letter) for letter in ids}
        _write(root, Journal(planned.id, topic, by, time.time_ns() // 1_000_000, again, ids, first))
    return planned


def _select(
    known: ReplayHistory,
    bindings: Path,
    topic: str,
    chosen: Filter,
    readers: Collection[str],
    *,
    again: bool,
    limit: int,
) -> Plan:
    read = reader.read(bindings, topic, chosen)
    # Two queries may have refused one record, which is sent once.
    candidates = list({entry.id: entry for entry in reversed(read) if entry.is_complete}.values())[::-1]
    parts = {entry.id for entry in read if not entry.is_complete}
    seconds = {entry.id for entry in candidates if entry.id in known.replays}
    done = {entry.id for entry in candidates if entry.id in known.replayed}
    every = reader.read(bindings, topic, Filter(ids=frozenset(entry.id for entry in candidates)))
    taken = taken_by(every, readers)
    out = taken.keys() | (set() if again else seconds | done)
    ready = [entry for entry in candidates if entry.id not in out]
    counted = {
        "failed again after a replay (--again includes them)": 0 if again else len(seconds),
        "were replayed before (--again includes them)": 0 if again else len(done),
        "hold no complete record": len(parts),
        f"are beyond the limit of {limit}": max(0, len(ready) - limit),
    }
    left_out = [f"{count} letters {why}: they are left out." for why, count in counted.items() if count]
    return Plan(
        "replay",
        topic,
        tuple(
            Item(
                "send", entry.id, ", replayed before by ".join(filter(None, (entry.word, known.replayed.get(entry.id))))
            )
            for entry in ready[:limit]
        ),
        notes=(*left_out, *_taken_words(taken, every)),
    )


def readers_of(pipelines: Iterable[Pipeline], topic: str) -> list[str]:
    """Return the queries (`<pipeline>.<query>`) that read a topic."""
    return [
        names.query_name(pipeline.name, name)
        for pipeline in pipelines
        for name, query in pipeline.queries.items()
        if topic in query.sources
    ]


def taken_by(letters: Iterable[Letter], readers: Collection[str]) -> dict[str, list[str]]:
    """Return letter id -> the queries that have accepted its record: after a replay it would be in their sinks twice.

    `letters` are all letters of their records. If the contract refused a record (then the archive query writes the letter), no
    query has accepted it; if declared queries refused it, all other queries have accepted it.
    """
    refused: dict[str, set[str]] = {}
    by_contract: set[str] = set()
    for letter in letters:
        refused.setdefault(letter.id, set()).add(letter.query)
        if letter.query.endswith(f".{names.archive_query(letter.topic)}"):
            by_contract.add(letter.id)
    others = {letter_id: sorted(set(readers) - by) for letter_id, by in refused.items() if letter_id not in by_contract}
    return {letter_id: queries for letter_id, queries in others.items() if queries}


def _taken_words(taken: Mapping[str, list[str]], letters: Iterable[Letter]) -> list[str]:
    """Return why letters are left out because of other queries, and the alternative; nothing if none are."""
    if not taken:
        return []
    refused = [entry for entry in letters if entry.id in taken]
    places = [name.partition(".") for name in sorted({entry.query for entry in refused})]
    again = "; ".join(f"headrace stream restart {p} --new-generation {query} --rows keep" for p, _, query in places)
    others = ", ".join(sorted({name for queries in taken.values() for name in queries}))
    doubled = f"{len(taken)} letters are not sent: {others} accepted their records and would count them twice."
    apart = sorted({entry.query.partition(".")[0] for entry in refused if entry.word == "quarantined"})
    out = [
        f"Before that, stop the pipeline and take the records out of the quarantine, which would leave them out again (option "
        f"--release). Its ranges: headrace dead-letters quarantine {pipeline}"
        for pipeline in apart
    ]
    return [f"{doubled} Let the query that refused them read its topic again: {again}", *out]


def act(root: str, bindings: Path, topic: str, approval: Approval, *, readers: Collection[str]) -> Replayed:
    """Send the letters of the approved plan to their topic. A repeat continues where it stopped, and sends nothing twice.

    Raises HeadraceError if there is no such plan, as `plans.begin` does if a letter of the plan was replayed or deleted since,
    or if Kafka did not accept a record.
    """
    journal = _journal(root, topic, approval.plan)
    if journal is None:
        raise HeadraceError(
            f"There is no plan {approval.plan} of a replay of {topic}. See the current plan: headrace dead-letters replay {topic}"
        )
    if journal.state == "planned":
        chosen = Filter(ids=frozenset(journal.ids))
        known, limit = history(root, topic), len(journal.ids)
        plans.begin(root, _select(known, bindings, topic, chosen, readers, again=journal.again, limit=limit), approval)
        journal = _write(root, replace(journal, state="running", starts=KafkaEnds(bindings)([topic])[topic]))
    elif journal.state == "running":
        journal = _write(root, replace(journal, sent=_got_through(bindings, journal)))
    if journal.state != "done":
        journal = _write(root, replace(_send(root, bindings, journal), state="done"))
    return Replayed(journal.run, topic, len(journal.sent))


def _got_through(bindings: Path, journal: Journal) -> dict[str, str]:
    """Return letter -> coordinates for everything that an interrupted run has sent, from the headers in the topic."""
    firsts = {first: letter for letter, first in journal.first.items()}
    coordinates = {}
    # A replayed record behind another producer's open transaction has been sent all the same.
    for message in reader.records(bindings, journal.topic, journal.starts, uncommitted=True):
        headers = reader.headers_of(message)
        if headers.get(HEADER_REPLAY) == journal.run:
            letter = firsts[headers[HEADER_REPLAY_OF]]
            coordinates[letter] = f"{journal.topic}/{message.partition()}/{message.offset()}"
    return coordinates


def _send(root: str, bindings: Path, journal: Journal) -> Journal:
    """Send the letters of a journal that were not sent yet, and return the journal with their coordinates."""
    wanted = frozenset(journal.ids) - journal.sent.keys()
    letters = {letter.id: letter for letter in reader.read(bindings, journal.topic, Filter(ids=wanted))}.values()
    gone = wanted - {letter.id for letter in letters}
    if gone:
        raise HeadraceError(f"{len(gone)} letters, among them {min(gone)}, were deleted by retention. Plan again.")
    sent: dict[str, str] = {}
    failed: list[KafkaError] = []
    producer = Producer(producer_config(read_kafka(bindings), paced=False) | {"client.id": "headrace-replay"})
    for letter in letters:
        producer.produce(
            journal.topic,
            letter.value,
            letter.key,
            partition=letter.partition,  # the partition of its key, whatever partitioner the producer uses
            headers=[
                *((name, value) for name, value in letter.headers if name not in (HEADER_REPLAY_OF, HEADER_REPLAY)),
                (HEADER_REPLAY_OF, journal.first[letter.id].encode()),
                (HEADER_REPLAY, journal.run.encode()),
            ],
            on_delivery=_noting(letter, sent, failed),
        )
        producer.poll(0)
    left = producer.flush(ACKNOWLEDGED_SECONDS)
    journal = _write(root, replace(journal, sent=journal.sent | sent))
    if left or failed:
        why = failed[0].str() if failed else "no answer in time"
        raise HeadraceError(
            f"{len(wanted) - len(sent)} of {len(wanted)} letters were not sent ({why}). Run the same command again; "
            "it continues where it stopped."
        )
    return journal


def _noting(letter: Letter, sent: dict[str, str], failed: list[KafkaError]) -> Callable[[KafkaError | None, Any], None]:
    def note(error: KafkaError | None, message: Any) -> None:  # noqa: ANN401 - a confluent_kafka Message
        if error is not None:
            failed.append(error)
        else:
            sent[letter.id] = f"{message.topic()}/{message.partition()}/{message.offset()}"

    return note


def _path(root: str, topic: str, run: str) -> str:
    return f"{paths.replays(root, topic)}/{run}.json"


def _journal(root: str, topic: str, run: str) -> Journal | None:
    return records.read(Journal, _path(root, topic, run))


def _write(root: str, journal: Journal) -> Journal:
    records.write(_path(root, journal.topic, journal.run), journal)
    return journal
