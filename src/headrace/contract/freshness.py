"""How long few records may wait for more, by the freshness that a query declares: fewer batches cost less."""

from __future__ import annotations

from datetime import timedelta

from headrace.contract.model import Query

TRIGGERS = 2.5
"""How many triggers a record's way takes besides waiting: the driver looks for records at each trigger, which may be a fifth
longer than declared (`driver.queries.stagger`), and the batch itself takes time."""


def waits(query: Query) -> timedelta:
    """Return how long few records wait for more since the batch before; zero without `freshness`."""
    return query.freshness - TRIGGERS * query.trigger if query.freshness else timedelta(0)
