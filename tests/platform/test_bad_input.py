"""Every kind of bad or odd record through a real topic: a dead letter with reason, coordinates and bytes, or a row.

The kinds are those of the decoder's own test; here they go through Kafka, Spark, the archive and the dead-letter topic.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.contract.names import dead_letter_topic
from headrace.local.settings import Settings
from tests.driver.test_decode_kinds import ACCEPTED, REFUSED, pos
from tests.support import actual
from tests.support.drivers import make_stage

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1200)]

# These two are told by the distance to the Kafka timestamp, which the broker sets here: made anew below.
BY_THE_CLOCK = {"a microsecond beyond the skew", "exactly at the skew"}


def _kinds() -> dict[str, tuple[bytes | None, str | None]]:
    """Return kind -> (value, reason, None for an accepted one)."""
    ahead = {
        kind: pos(date=f'"{datetime.now(UTC) + by:%Y-%m-%d %H:%M:%S}"')
        for kind, by in (("past the skew", timedelta(minutes=30)), ("within the skew", timedelta(minutes=2)))
    }
    refused = {kind: given for kind, given in REFUSED.items() if kind not in BY_THE_CLOCK}
    odd = {kind: (value, None) for kind, (value, _) in ACCEPTED.items() if kind not in BY_THE_CLOCK}
    clock = {"past the skew": (ahead["past the skew"], "future: "), "within the skew": (ahead["within the skew"], None)}
    return {**refused, **odd, **clock}


def test_each_kind_is_a_dead_letter_with_its_reason_or_accepted_by_a_stated_rule(
    platform: Settings, project: Path, tmp_path: Path
) -> None:
    kinds = _kinds()
    assert sum(reason is not None for _, reason in kinds.values()) > 30
    stage = make_stage(
        platform, project, tmp_path, "pos_sales", suffix="_bad", queries=["items"], trigger="200 milliseconds"
    )
    # Keys of every sort too: none, empty, and bytes that are no text.
    keys = (None, b"", b"\xff\x00", b"p1")
    sent = [("pos_bad", keys[i % len(keys)], value) for i, (value, _) in enumerate(kinds.values())]
    try:
        stage.start()
        stage.send(sent)
        stage.await_quiet()
        assert stage.stop() == 0
    finally:
        stage.kill()
    messages = stage.read("pos_bad")
    assert sorted((str(m.key), str(m.value)) for m in messages) == sorted((str(k), str(v)) for _, k, v in sent)

    reasons = dict(kinds.values())
    good = {(m.partition, m.offset) for m in messages if reasons[m.value] is None}
    actual.require_archive(stage, "pos_bad", messages, good)
    letters, _ = actual.distinct(stage.read(dead_letter_topic("pos_bad")))
    letter_reasons = {letter.value: letter.header("headrace.reason") for letter in letters.values()}
    wanted = {value: reason for value, reason in reasons.items() if reason is not None}
    assert letter_reasons.keys() == wanted.keys()
    assert {
        value: letter_reasons[value] for value in letter_reasons if not letter_reasons[value].startswith(wanted[value])
    } == {}
    items, _ = actual.distinct(stage.read("pos_items_bad"))
    assert items.keys() == {actual.coordinates("pos_bad", place) for place in good}
    actual.require_ledgers(stage)
