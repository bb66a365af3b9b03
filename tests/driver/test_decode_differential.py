"""The decoder against two independent parsers on generated and damaged records: the json module and jiter (pydantic-core).

HEADRACE_DECODE_CASES=100000 is the long form. Every case is judged in a batch of many, and the reason that a refused
record gets must be one of the rules that it breaks by the oracle.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

from headrace.contract.model import Source
from headrace.contract.platform_columns import SOURCE
from headrace.driver.decode import make_decoder
from tests.driver.decode_data import KAFKA_TIME, ORDERS, POS, WIDE, batch
from tests.driver.decode_maker import Maker
from tests.driver.decode_oracle import Number, oracle, short

CASES = int(os.environ.get("HEADRACE_DECODE_CASES", "2000"))
BATCH = 250
SOURCES = {"pos": POS, "wide": WIDE, "orders": ORDERS}
DECODERS = {name: make_decoder(source) for name, source in SOURCES.items()}


def parsed(source: Source, column: str, value: Any) -> Any:
    """Return a decoded value; of a json column what its text says."""
    if source.columns[column].type != "json" or value is None:
        return value
    return json.loads(value, parse_float=Number, parse_int=Number)


def test_the_decoder_agrees_with_two_independent_parsers(seed: int) -> None:
    maker = Maker(random.Random(seed))
    accepted = refused = 0
    for first in range(0, CASES, BATCH):
        name = list(SOURCES)[first // BATCH % len(SOURCES)]
        values = [maker.record(SOURCES[name]) for _ in range(BATCH)]
        (judged,) = DECODERS[name].judged([batch(values)])
        (taken,) = DECODERS[name].accepted([batch(values)])
        rows = {row[SOURCE]["offset"]: row for row in taken.to_pylist()}
        for place, (value, reason) in enumerate(zip(values, judged.column("reason").to_pylist(), strict=True)):
            words, row = oracle(SOURCES[name], value, KAFKA_TIME)
            if reason is not None:
                assert reason.partition(":")[0] in words, (
                    f"{short(value)} is refused as {reason!r}; the oracle has {words}"
                )
                refused += 1
                continue
            assert not words, f"{short(value)} is accepted; the oracle has {words}"
            read = {column: parsed(SOURCES[name], column, rows[place][column]) for column in row}
            assert read == row, f"{short(value)} is read as another row"
            accepted += 1
    print(f"{accepted} accepted, {refused} refused")
    assert min(accepted, refused) > CASES // 10  # the generator makes enough of both
