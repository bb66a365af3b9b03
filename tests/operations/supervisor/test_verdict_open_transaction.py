"""The verdict on a query that stands behind an open transaction."""

from __future__ import annotations

import json
from dataclasses import replace

from headrace.operations.supervisor.memory import Memory
from headrace.operations.supervisor.verdict import CheckpointPosition, remember
from headrace.store.records import from_json, to_json
from tests.operations.supervising import NOW, beat, positions, seen
from tests.operations.supervisor.test_verdict import KNOWN, PIPELINE, judged, verdict


def test_an_open_transaction_is_a_reason_of_its_own_once_it_outlasts_the_promised_freshness() -> None:
    held = {q: CheckpointPosition(1, 7, 0, held=12, held_at="logins/0 offset 40") for q in positions(PIPELINE)}
    since = NOW - int(PIPELINE.slo.freshness.total_seconds() * 1000)
    old = beat(PIPELINE, batch_written_ms=NOW - 3_600_000)

    def waiting(at: str, since_ms: int) -> tuple[str, str]:
        memory = replace(KNOWN, held=dict.fromkeys(held, (at, since_ms)))
        return verdict(seen(PIPELINE, heartbeat=old, positions=held), memory)

    assert waiting("logins/0 offset 40", since)[0] == "IDLE", "an open transaction is nothing unusual"
    assert waiting("logins/0 offset 33", since - 60_000)[0] == "IDLE", "it is another one now"
    name, why = waiting("logins/0 offset 40", since - 1000)
    assert name == "LAGGING"
    assert why.startswith(
        "last_login: it has taken all that is committed; 12 offsets stand behind an open transaction since "
    )
    assert "logins/0 offset 40" in why
    assert not judged(
        seen(PIPELINE, heartbeat=old, positions=held),
        replace(KNOWN, held=dict.fromkeys(held, ("logins/0 offset 40", 1))),
    ).pipeline.actionable


def test_the_memory_of_an_open_transaction_survives_a_restart_of_the_supervisor_and_ends_with_it() -> None:
    held = positions(PIPELINE) | {"last_login": CheckpointPosition(1, 7, 0, held=3, held_at="logins/0 offset 4")}
    memory = remember(seen(PIPELINE, positions=held), KNOWN)
    again = from_json(Memory, json.loads(json.dumps(to_json(memory))))
    assert again.held == {"last_login": ("logins/0 offset 4", NOW)}
    later = remember(seen(PIPELINE, positions=held, now_ms=NOW + 9000), again)
    assert later.held == again.held
    assert remember(seen(PIPELINE), later).held == {}
