"""`headrace dead-letters list|show|replay`: refused records, and how to send them again. The others: `cli.quarantine`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from headrace.cli import quarantine
from headrace.cli.common import Json, console, milliseconds_of, pipelines_of, print_json, print_result, provisioned, who
from headrace.cli.plans import Act, approval
from headrace.cli.plans import show as show_plan
from headrace.errors import HeadraceError
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters import replay as dead_letters_replay
from headrace.operations.dead_letters.reader import Filter

FILTERS = ("reason", "partition", "offsets", "since", "until", "again", "limit")
letters = typer.Typer(
    no_args_is_help=True,
    help="List, show and replay refused records. Find and skip a record that ends a query.",
)
letters.command("find")(quarantine.find)
letters.command("quarantine")(quarantine.quarantine)

Topic = Annotated[str, typer.Argument(help="A source topic.")]
Reason = Annotated[str | None, typer.Option(help="The reason code, or the beginning of the reason.")]
Partition = Annotated[int | None, typer.Option(min=0, help="Partition of the refused record.")]
Offsets = Annotated[str | None, typer.Option(metavar="FIRST-LAST", help="Offsets of the refused records.")]
Since = Annotated[str | None, typer.Option(help="Refused at or after this time, such as 2026-11-23T10:00 (UTC).")]
Until = Annotated[str | None, typer.Option(help="Refused before this time.")]


@letters.command("list")
def list_(
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="Source topics. Default: all.")
    ] = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Show the number of dead letters by topic and reason."""
    deployment = provisioned()
    chosen = _filter(reason, None, None, since, until)
    groups = reader.summary(
        letter for topic in _topics(topics) for letter in reader.read(deployment.bindings, topic, chosen)
    )
    rows = [(g.topic, g.reason, g.letters, _clock(g.first_ms), _clock(g.last_ms), g.example) for g in groups]
    print_result(groups, ("topic", "reason", "letters", "first", "last", "example"), rows, as_json=as_json)


@letters.command("show")
def show(
    topic: Topic,
    reason: Reason = None,
    partition: Partition = None,
    offsets: Offsets = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of letters.")] = 20,
    as_json: Json = False,
) -> None:
    """Show single dead letters with their bytes, and whether they were replayed."""
    deployment = provisioned()
    _topics([topic])
    letters_found = reader.read(deployment.bindings, topic, _filter(reason, partition, offsets, since, until), limit)
    known = dead_letters_replay.history(deployment.root, topic)
    shown = [
        reader.shown(letter, known.replayed.get(letter.id), known.replays.get(letter.id)) for letter in letters_found
    ]
    rows = [(s.id, _clock(s.at_ms), s.reason, s.replayed_by or s.replay_of or "", s.value) for s in shown]
    print_result(shown, ("record", "refused", "reason", "replay", "value"), rows, as_json=as_json)


@letters.command("replay")
def replay(
    context: typer.Context,
    topic: Topic,
    reason: Reason = None,
    partition: Partition = None,
    offsets: Offsets = None,
    since: Since = None,
    until: Until = None,
    again: Annotated[
        bool, typer.Option(help="Include letters that were replayed before, and repeated failures.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of letters.")] = dead_letters_replay.MAX_LETTERS,
    act: Act = "",
    as_json: Json = False,
) -> None:
    """Send dead letters to their topic again, after the cause is fixed. With --act, the letters are those of the plan."""
    deployment = provisioned()
    _topics([topic])
    readers = dead_letters_replay.readers_of(deployment.pipelines().values(), topic)
    if not act:
        chosen = _filter(reason, partition, offsets, since, until)
        planned = dead_letters_replay.plan(
            deployment.root, deployment.bindings, topic, chosen, readers=readers, again=again, limit=limit, by=who()
        )
        show_plan(context, planned, as_json, **dict.fromkeys(FILTERS))  # the plan's letters are stored under its id
        return
    approved = approval(act, who())
    done = dead_letters_replay.act(deployment.root, deployment.bindings, topic, approved, readers=readers)
    if as_json:
        print_json(done)
    else:
        console.print(f"{done.sent} letters of {topic} were sent again.")


def _topics(names: list[str] | None) -> list[str]:
    known = [topic for pipeline in pipelines_of().values() for topic in pipeline.sources]
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise HeadraceError(f"Unknown source topic {unknown[0]!r}. Known source topics: {', '.join(known)}.")
    return names or known


def _filter(
    reason: str | None, partition: int | None, offsets: str | None, since: str | None, until: str | None
) -> Filter:
    return Filter(reason, partition, _range(offsets), milliseconds_of(since), milliseconds_of(until))


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise HeadraceError(f"--offsets takes FIRST-LAST such as 120-180, not {text!r}.")
    return int(first), int(last or first)


def _clock(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%m-%d %H:%M:%S}"
