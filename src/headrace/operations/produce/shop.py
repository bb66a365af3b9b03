"""Topic `pos`: lines of receipts, `{product_id, amount, create_date}`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from headrace.operations.produce.mix import Mix
from headrace.operations.produce.record import NORMAL
from headrace.operations.produce.timeline import (
    SHOP_HOURS,
    Draft,
    Floats,
    Made,
    Timeline,
    draw,
    planned_blocks,
    second_texts,
    zipf,
)

REFUND = "refund"
_PIECES = np.array([1, 1, 1, 1, 1, 1, 2, 2, 3, 6])  # quantities of a product on one line


def pos_drafts(mix: Mix, count: int, timeline: Timeline, rng: np.random.Generator) -> Iterator[Draft]:
    """Yield `count` sales: products by Zipf, each with a fixed price, some lines refunds (negative amounts)."""
    popular = zipf(mix.products, mix.skew)
    names = [f"p{number:05d}" for number in rng.permutation(mix.products)]
    keys = [name.encode() for name in names]
    cents = np.clip(np.exp(rng.normal(6.5, 1.0, mix.products)), 10, 500_000).astype(np.int64)

    def build(event: Floats) -> list[Made]:
        product = draw(popular, len(event), rng)
        refund = rng.random(len(event)) < mix.refunds
        amount = cents[product] * _PIECES[rng.integers(0, len(_PIECES), len(event))] * np.where(refund, -1, 1)
        return [
            (
                keys[which],
                # Cents below 10^13 divided by 100 and written with two digits are exact.
                f'{{"product_id":"{names[which]}","amount":{money / 100:.2f},"create_date":"{time}"}}'.encode(),
                REFUND if money < 0 else NORMAL,
            )
            for which, money, time in zip(product.tolist(), amount.tolist(), second_texts(event), strict=True)
        ]

    for planned in planned_blocks(count, timeline, SHOP_HOURS, rng):
        yield Draft(planned, timeline.event_at(planned), build)
