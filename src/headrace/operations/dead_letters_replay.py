"""Replay of dead letters into their source topic, once the cause is mended: each letter once, and never in a loop.

A replayed record is a new record: it is archived, and accepted or refused, under its own coordinates, so archive =
accepted + dead letters goes on holding. Its header `headrace.replay_of` names the first coordinates. A letter of a record
that was itself a replay is a second failure: it is shown as such and left out unless asked for.

A letter that a query refused, not the contract, is of a record that was accepted: every other query of the topic has taken
it and would take it twice. It is replayed only where there is no such query.

Each replay has a journal below the storage root, written before anything is sent: a replay that broke off is completed
by the same run, which first looks up in the topic what had got through.
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

from headrace.contract import names, paths, storage
from headrace.contract.bindings import read_kafka
from headrace.contract.model import Pipeline
from headrace.contract.records import short_id
from headrace.errors import HeadraceError
from headrace.operations import dead_letters
from headrace.operations.dead_letters import Filter, Letter
from headrace.operations.produce.send import producer_config
from headrace.operations.supervisor_observe import KafkaEnds

HEADER_REPLAY_OF = "headrace.replay_of"
HEADER_REPLAY = "headrace.replay"
MAX_LETTERS = 10_000
ACKNOWLEDGED_SECONDS = 60.0

Journal = dict[str, Any]
"""run, topic, by, at_ms, again, ids (of the letters), first (id -> first coordinates), from (partition -> end before it began),
sent (id -> coordinates of the new record), state: planned, running or done."""


@dataclass(frozen=True)
class History:
    """What the journals of a topic say: which letters were replayed, and which records are replays of what."""

    replayed: Mapping[str, str]  # letter id -> run
    replays: Mapping[str, str]  # coordinates of a replayed record -> first coordinates


def history(root: str, topic: str) -> History:
    """Return what was replayed into a topic so far, by all runs that were begun."""
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
    found = [storage.read_json(f"{folder}/{name}") for name in storage.list_names(folder) if name.endswith(".json")]
    return sorted((each for each in found if each), key=lambda each: (each["at_ms"], each["run"]))


def plan(
    root: str,
    bindings: Path,
    topic: str,
    chosen: Filter = dead_letters.ALL,
    *,
    readers: Collection[str],
    again: bool = False,
    limit: int = MAX_LETTERS,
    run: str | None = None,
    by: str = "",
) -> dict[str, Any]:
    """Choose the letters of a replay, write them down, and return what would be done. Nothing is sent.

    `readers` are the queries that read the topic (`readers_of`): a record that one of them has taken is left out. `again`
    also takes second failures and letters that an earlier run replayed. Returns {run, topic, letters, reasons,
    left_out, taken_by, refused_by, fingerprint}; `fingerprint` is what an approval is for.
    """
    known = history(root, topic)
    read = dead_letters.read(bindings, topic, chosen)
    # Two queries may have refused one record, which is sent once.
    found = list({each.id: each for each in reversed(read) if each.whole}.values())[::-1]
    parts = {each.id for each in read if not each.whole}
    seconds = [each for each in found if each.id in known.replays]
    done = [each for each in found if each.id in known.replayed]
    out = set() if again else {each.id for each in (*seconds, *done)}
    every = dead_letters.read(bindings, topic, Filter(ids=frozenset(each.id for each in found)))
    taken = taken_by(every, readers)
    out |= taken.keys()
    letters = [each for each in found if each.id not in out][:limit]
    ids = [each.id for each in letters]
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
        journal = before  # a run that was begun is completed, not planned anew
    else:
        _write(root, journal)
    return {
        "run": journal["run"],
        "topic": topic,
        "letters": len(journal["ids"]),
        "reasons": dead_letters.count_by_word(letters),
        "left_out": {
            "failed_again": len(seconds) if not again else 0,
            "replayed_before": len(done) if not again else 0,
            "no_whole_record": len(parts),
            "taken_by_another_query": len(taken),
            "beyond_the_limit": max(0, len(found) - len(out) - len(letters)),
        },
        "taken_by": sorted({name for each in taken.values() for name in each}),
        "refused_by": sorted({each.query for each in every if each.id in taken}),
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
    """Return letter id -> the queries that have taken its record: it would be in their sinks twice after a replay.

    `letters` are all letters of their records. What the contract refused (the archive query writes that letter) nobody has
    taken; what declared queries refused, all others have.
    """
    refused: dict[str, set[str]] = {}
    by_contract: set[str] = set()
    for letter in letters:
        refused.setdefault(letter.id, set()).add(letter.query)
        if letter.query.endswith(f".{names.archive_query(letter.topic)}"):
            by_contract.add(letter.id)
    others = {each: sorted(set(readers) - by) for each, by in refused.items() if each not in by_contract}
    return {each: queries for each, queries in others.items() if queries}


def taken_words(planned: Mapping[str, Any]) -> str:
    """Return why letters of a plan were left out because of other queries, and what to do instead; "" where none was."""
    count = planned["left_out"]["taken_by_another_query"]
    if not count:
        return ""
    places = [name.partition(".") for name in planned["refused_by"]]
    again = "; ".join(f"headrace stream restart {p} --new-generation {query} --rows keep" for p, _, query in places)
    return (
        f"{count} letters are not sent: {', '.join(planned['taken_by'])} took their records and would count them twice. "
        f"Let the query that refused them read its topic again: {again}"
    )


def act(root: str, bindings: Path, topic: str, run: str, approved: str | None = None) -> dict[str, Any]:
    """Send the letters of a plan into their topic and return {run, topic, sent, state}; a repeat sends nothing twice.

    Raises HeadraceError if the plan is not the approved one, a letter is gone, or Kafka did not take a record.
    """
    journal = _journal(root, topic, run)
    if journal is None:
        raise HeadraceError(f"There is no planned replay {run!r} of {topic}: plan it first.")
    if approved is not None and fingerprint(journal["ids"]) != approved:
        raise HeadraceError(f"Replay {run} is not what was approved: look at its plan again.")
    if journal["state"] == "planned":
        repeated = [letter for letter in journal["ids"] if letter in history(root, topic).replayed]
        if repeated and not journal["again"]:
            raise HeadraceError(f"{len(repeated)} letters were replayed since this was planned: plan it anew.")
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


def replay(root: str, bindings: Path, topic: str, chosen: Filter = dead_letters.ALL, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Plan and act in one go, for who decides without a second look; options as `plan`."""
    planned = plan(root, bindings, topic, chosen, **options)
    return planned | act(root, bindings, topic, planned["run"], planned["fingerprint"])


def fingerprint(ids: Sequence[str]) -> str:
    """Return what an approval is for: exactly these letters."""
    return short_id("\n".join(sorted(ids)))


def _got_through(bindings: Path, journal: Journal) -> dict[str, str]:
    """Return letter -> coordinates of what a run that broke off has sent, by the headers in the topic."""
    starts = {int(partition): end for partition, end in journal["from"].items()}
    firsts = {first: letter for letter, first in journal["first"].items()}
    found = {}
    # A replayed record that stands behind somebody's open transaction was sent all the same.
    for message in dead_letters.records(bindings, journal["topic"], starts, uncommitted=True):
        headers = dead_letters.headers_of(message)
        if headers.get(HEADER_REPLAY) == journal["run"]:
            letter = firsts[headers[HEADER_REPLAY_OF]]
            found[letter] = f"{journal['topic']}/{message.partition()}/{message.offset()}"
    return found


def _send(root: str, bindings: Path, journal: Journal) -> None:
    wanted = frozenset(journal["ids"]) - journal["sent"].keys()
    letters = {each.id: each for each in dead_letters.read(bindings, journal["topic"], Filter(ids=wanted))}.values()
    gone = wanted - {each.id for each in letters}
    if gone:
        raise HeadraceError(f"{len(gone)} letters are gone, {min(gone)} among them: retention took them; plan anew.")
    sent: dict[str, str] = {}
    failed: list[KafkaError] = []
    producer = Producer(producer_config(read_kafka(bindings), paced=False) | {"client.id": "headrace-replay"})
    for letter in letters:
        producer.produce(
            journal["topic"],
            letter.value,
            letter.key,
            partition=letter.partition,  # where records of its key are, whatever partitioner their producer has
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
            f"{len(wanted) - len(sent)} of {len(wanted)} letters did not get through ({why}): repeat run {journal['run']}, "
            "it goes on where it stopped."
        )


def _noting(letter: Letter, sent: dict[str, str], failed: list[KafkaError]) -> Any:  # noqa: ANN401 - a delivery callback
    def note(error: KafkaError | None, message: Any) -> None:  # noqa: ANN401
        if error is not None:
            failed.append(error)
        else:
            sent[letter.id] = f"{message.topic()}/{message.partition()}/{message.offset()}"

    return note


def _safe(run: str) -> str:
    """Return a run's name as a file name: an Airflow run id has colons and pluses."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", run)


def _journal(root: str, topic: str, run: str) -> Journal | None:
    found: Journal | None = storage.read_json(f"{paths.replays(root, topic)}/{_safe(run)}.json")
    return found


def _write(root: str, journal: Journal) -> None:
    storage.write_json(f"{paths.replays(root, journal['topic'])}/{journal['run']}.json", journal)
