"""Replay dead letters into their source topic after the cause is fixed: each letter once, and never in a loop.

A replayed record is a new record: it is archived, and accepted or refused, under its own coordinates, so archive =
accepted + dead letters still holds. Its header `headrace.replay_of` has the first coordinates. A letter of a record that
was itself a replay is a repeated failure: it is shown as such and left out unless requested.

If a query, not the contract, refused a letter, its record was accepted: every other query of the topic has read it and
would read it twice. Such a letter is replayed only if there is no other query.

Each replay has a journal below the storage root, written before anything is sent: an interrupted replay is completed by
the same run, which first looks up in the topic which letters were sent.
"""

from __future__ import annotations

import getpass
import re
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Producer

from headrace.access.bindings import read_kafka
from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.errors import HeadraceError
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters.reader import Filter, Letter
from headrace.operations.produce.send import producer_config
from headrace.operations.supervisor.observe import KafkaEnds
from headrace.store import paths, small_files
from headrace.store.records import short_id

HEADER_REPLAY_OF = "headrace.replay_of"
HEADER_REPLAY = "headrace.replay"
MAX_LETTERS = 10_000
ACKNOWLEDGED_SECONDS = 60.0

Journal = dict[str, Any]
"""run, topic, by, at_ms, again, ids (of the letters), first (id -> first coordinates), from (partition -> end at the start),
sent (id -> coordinates of the new record), state: planned, running or done."""


@dataclass(frozen=True)
class History:
    """The history from a topic's journals: which letters were replayed, and which records are replays of which."""

    replayed: Mapping[str, str]  # letter id -> run
    replays: Mapping[str, str]  # coordinates of a replayed record -> first coordinates


def history(root: str, topic: str) -> History:
    """Return everything that was replayed into a topic so far, by all runs that were begun."""
    replayed: dict[str, str] = {}
    replays: dict[str, str] = {}
    for journal in journals(root, topic):
        if journal["state"] != "planned":
            replayed |= dict.fromkeys(journal["ids"], journal["run"])
            replays |= {new: journal["first"][letter] for letter, new in journal["sent"].items()}
    return History(replayed, replays)


def journals(root: str, topic: str) -> list[Journal]:
    """Return the journals of a topic's replays, oldest first."""
    folder = paths.replays(root, topic)
    entries = [
        small_files.read_json(f"{folder}/{name}") for name in small_files.list_names(folder) if name.endswith(".json")
    ]
    return sorted((journal for journal in entries if journal), key=lambda journal: (journal["at_ms"], journal["run"]))


def plan(
    root: str,
    bindings: Path,
    topic: str,
    chosen: Filter = reader.ALL,
    *,
    readers: Collection[str],
    again: bool = False,
    limit: int = MAX_LETTERS,
    run: str | None = None,
    by: str = "",
) -> dict[str, Any]:
    """Select the letters of a replay, write its journal, and return the plan. Nothing is sent.

    `readers` are the queries that read the topic (`readers_of`): a record that one of them has accepted is left out. `again`
    includes repeated failures and letters that an earlier run replayed. Returns {run, topic, letters, reasons,
    left_out, taken_by, refused_by, fingerprint}; an approval refers to `fingerprint`.
    """
    known = history(root, topic)
    read = reader.read(bindings, topic, chosen)
    # Two queries may have refused one record, which is sent once.
    candidates = list({entry.id: entry for entry in reversed(read) if entry.whole}.values())[::-1]
    parts = {entry.id for entry in read if not entry.whole}
    seconds = [entry for entry in candidates if entry.id in known.replays]
    done = [entry for entry in candidates if entry.id in known.replayed]
    out = set() if again else {entry.id for entry in (*seconds, *done)}
    every = reader.read(bindings, topic, Filter(ids=frozenset(entry.id for entry in candidates)))
    taken = taken_by(every, readers)
    out |= taken.keys()
    letters = [entry for entry in candidates if entry.id not in out][:limit]
    ids = [entry.id for entry in letters]
    journal: Journal = {
        "run": _safe(run) if run else f"replay-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}",
        "topic": topic,
        "by": by or getpass.getuser(),
        "at_ms": time.time_ns() // 1_000_000,
        "again": again,
        "ids": ids,
        "first": {letter: known.replays.get(letter, letter) for letter in ids},
        "from": {},
        "sent": {},
        "state": "planned",
    }
    before = _journal(root, topic, journal["run"])
    if before and before["state"] != "planned":
        journal = before  # a run that was begun is completed, not planned again
    else:
        _write(root, journal)
    return {
        "run": journal["run"],
        "topic": topic,
        "letters": len(journal["ids"]),
        "reasons": reader.count_by_word(letters),
        "left_out": {
            "failed_again": len(seconds) if not again else 0,
            "replayed_before": len(done) if not again else 0,
            "no_whole_record": len(parts),
            "taken_by_another_query": len(taken),
            "beyond_the_limit": max(0, len(candidates) - len(out) - len(letters)),
        },
        "taken_by": sorted({name for entry in taken.values() for name in entry}),
        "refused_by": sorted({entry.query for entry in every if entry.id in taken}),
        "fingerprint": fingerprint(journal["ids"]),
    }


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


def taken_words(planned: Mapping[str, Any]) -> str:
    """Return why letters of a plan were left out because of other queries, and the alternative; "" if none were."""
    count = planned["left_out"]["taken_by_another_query"]
    if not count:
        return ""
    places = [name.partition(".") for name in planned["refused_by"]]
    again = "; ".join(f"headrace stream restart {p} --new-generation {query} --rows keep" for p, _, query in places)
    return (
        f"{count} letters are not sent: {', '.join(planned['taken_by'])} accepted their records and would count them twice. "
        f"Let the query that refused them read its topic again: {again}"
    )


def act(root: str, bindings: Path, topic: str, run: str, approved: str | None = None) -> dict[str, Any]:
    """Send the letters of a plan to their topic and return {run, topic, sent, state}; a repeat sends nothing twice.

    Raises HeadraceError if the plan is not the approved one, a letter no longer exists, or Kafka did not accept a record.
    """
    journal = _journal(root, topic, run)
    if journal is None:
        raise HeadraceError(f"There is no planned replay {run!r} of {topic}. Plan it first.")
    if approved is not None and fingerprint(journal["ids"]) != approved:
        raise HeadraceError(f"Replay {run} is not what was approved. Check its plan again.")
    if journal["state"] == "planned":
        repeated = [letter for letter in journal["ids"] if letter in history(root, topic).replayed]
        if repeated and not journal["again"]:
            raise HeadraceError(f"{len(repeated)} letters have been replayed since this was planned. Plan it again.")
        ends = KafkaEnds(bindings)([topic])[topic]
        journal |= {"state": "running", "from": {str(p): end for p, end in ends.items()}}
        _write(root, journal)
    elif journal["state"] == "running":
        journal["sent"] = _got_through(bindings, journal)
        _write(root, journal)
    if journal["state"] != "done":
        _send(root, bindings, journal)
        journal["state"] = "done"
        _write(root, journal)
    return {"run": run, "topic": topic, "sent": len(journal["sent"]), "state": journal["state"]}


def replay(root: str, bindings: Path, topic: str, chosen: Filter = reader.ALL, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Plan and act in one step, without an approval; options as in `plan`."""
    planned = plan(root, bindings, topic, chosen, **options)
    return planned | act(root, bindings, topic, planned["run"], planned["fingerprint"])


def fingerprint(ids: Sequence[str]) -> str:
    """Return the identifier of an approval for exactly these letters."""
    return short_id("\n".join(sorted(ids)))


def _got_through(bindings: Path, journal: Journal) -> dict[str, str]:
    """Return letter -> coordinates for everything that an interrupted run has sent, from the headers in the topic."""
    starts = {int(partition): end for partition, end in journal["from"].items()}
    firsts = {first: letter for letter, first in journal["first"].items()}
    coordinates = {}
    # A replayed record behind another producer's open transaction has been sent all the same.
    for message in reader.records(bindings, journal["topic"], starts, uncommitted=True):
        headers = reader.headers_of(message)
        if headers.get(HEADER_REPLAY) == journal["run"]:
            letter = firsts[headers[HEADER_REPLAY_OF]]
            coordinates[letter] = f"{journal['topic']}/{message.partition()}/{message.offset()}"
    return coordinates


def _send(root: str, bindings: Path, journal: Journal) -> None:
    wanted = frozenset(journal["ids"]) - journal["sent"].keys()
    letters = {letter.id: letter for letter in reader.read(bindings, journal["topic"], Filter(ids=wanted))}.values()
    gone = wanted - {letter.id for letter in letters}
    if gone:
        raise HeadraceError(f"{len(gone)} letters, among them {min(gone)}, were deleted by retention. Plan again.")
    sent: dict[str, str] = {}
    failed: list[KafkaError] = []
    producer = Producer(producer_config(read_kafka(bindings), paced=False) | {"client.id": "headrace-replay"})
    for letter in letters:
        producer.produce(
            journal["topic"],
            letter.value,
            letter.key,
            partition=letter.partition,  # the partition of its key, whatever partitioner the producer uses
            headers=[
                *((name, value) for name, value in letter.headers if name not in (HEADER_REPLAY_OF, HEADER_REPLAY)),
                (HEADER_REPLAY_OF, journal["first"][letter.id].encode()),
                (HEADER_REPLAY, journal["run"].encode()),
            ],
            on_delivery=_noting(letter, sent, failed),
        )
        producer.poll(0)
    left = producer.flush(ACKNOWLEDGED_SECONDS)
    journal["sent"] |= sent
    _write(root, journal)
    if left or failed:
        why = failed[0].str() if failed else "no answer in time"
        raise HeadraceError(
            f"{len(wanted) - len(sent)} of {len(wanted)} letters were not sent ({why}). Repeat run {journal['run']}; "
            "it continues where it stopped."
        )


def _noting(letter: Letter, sent: dict[str, str], failed: list[KafkaError]) -> Any:  # noqa: ANN401 - a delivery callback
    def note(error: KafkaError | None, message: Any) -> None:  # noqa: ANN401
        if error is not None:
            failed.append(error)
        else:
            sent[letter.id] = f"{message.topic()}/{message.partition()}/{message.offset()}"

    return note


def _safe(run: str) -> str:
    """Return a run's name as a file name, because an Airflow run id contains colons and plus signs."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", run)


def _journal(root: str, topic: str, run: str) -> Journal | None:
    journal: Journal | None = small_files.read_json(f"{paths.replays(root, topic)}/{_safe(run)}.json")
    return journal


def _write(root: str, journal: Journal) -> None:
    small_files.write_json(f"{paths.replays(root, journal['topic'])}/{journal['run']}.json", journal)
