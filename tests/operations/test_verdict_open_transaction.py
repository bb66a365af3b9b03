"""The verdict on a query that stands behind an open transaction."""

from __future__ import annotations

from dataclasses import replace

from headrace.operations.verdict import Position
from tests.operations.supervising import NOW, beat, positions, seen
from tests.operations.test_verdict import KNOWN, PIPELINE, told, verdict


def test_an_open_transaction_is_a_reason_of_its_own_once_it_outlasts_the_promised_freshness() -> None:
    held = {q: Position(1, 7, 0, held=12, held_at="logins/0 offset 40") for q in positions(PIPELINE)}
    since = NOW - int(PIPELINE.slo.freshness.total_seconds() * 1000)
    old = beat(PIPELINE, batch_written_ms=NOW - 3_600_000)

    def waiting(at: str, since_ms: int) -> tuple[str, str]:
        memory = replace(KNOWN, held=dict.fromkeys(held, (at, since_ms)))
        return verdict(seen(PIPELINE, beat=old, positions=held), memory)

    assert waiting("logins/0 offset 40", since)[0] == "IDLE", "an open transaction is nothing unusual"
    assert waiting("logins/0 offset 33", since - 60_000)[0] == "IDLE", "it is another one now"
    found, why = waiting("logins/0 offset 40", since - 1000)
    assert found == "LAGGING"
    assert why.startswith(
        "last_login: it has taken all that is committed; 12 offsets stand behind an open transaction since "
    )
    assert "logins/0 offset 40" in why
    assert not told(
        seen(PIPELINE, beat=old, positions=held), replace(KNOWN, held=dict.fromkeys(held, ("logins/0 offset 40", 1)))
    ).pipeline.ripe
