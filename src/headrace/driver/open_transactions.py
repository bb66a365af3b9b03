"""A start over a checkpoint whose position is beyond the beginning of an open transaction (ADR 0031)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from py4j.protocol import Py4JError

from headrace.contract.exit_codes import Exit
from headrace.driver.consumer_groups import GroupCommitter
from headrace.errors import HeadraceError
from headrace.store import archive_notes
from headrace.store.checkpoint_log import Offsets, newest_batch, read_entry

log = logging.getLogger(__name__)


def require_ended(groups: GroupCommitter, checkpoints: Iterable[str]) -> None:
    """Raise HeadraceError(TRANSIENT) if a checkpoint's position is beyond the beginning of an open transaction.

    A release that read uncommitted records left it there. Spark would take the end before its position for lost data, and
    plan that batch permanently. Once the transaction has ended, the start succeeds.
    """
    stands: Offsets = {}
    for folder in checkpoints:
        newest = newest_batch(folder, "offsets")
        entry = read_entry(folder, newest) if newest is not None else None
        stands = archive_notes.latest(stands, entry[1] if entry else {})
    try:
        stable = groups.end_offsets(stands)
        places = [(t, p) for t, parts in stands.items() for p, offset in parts.items() if offset > stable[t][p]]
        written = groups.end_offsets(stands, committed=False) if places else {}
    except Py4JError as error:
        log.warning("cannot determine the last stable offsets in Kafka: %s", error)
        return
    for topic, partition in places:
        if stands[topic][partition] <= written[topic][partition]:  # otherwise it is another topic of this name
            raise HeadraceError(
                f"{topic}/{partition} was read up to offset {stands[topic][partition]}, but a transaction that began at "
                f"{stable[topic][partition]} is still open. The start succeeds once it has ended "
                '(docs/runbooks/LAGGING.md, "Behind an open transaction").',
                exit_code=Exit.TRANSIENT,
            )
