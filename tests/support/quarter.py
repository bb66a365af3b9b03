"""Days of sales in compressed time: what the streams of `pos_sales` read and write, in memory, on a declared clock.

Records arrive in batches. Some are late for their windows, some by days, some are refused. A restart loses the watermark's
newest time, as Spark does. Topics lose records after their retention. Nothing here is the product's: windows, totals and
watermarks follow Spark's rules (see `batch.accounting`), so a difference that no fault explains is a defect.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from headrace.contract import names
from headrace.store import generation, ledger
from headrace.store.checkpoint_log import BatchRange
from headrace.store.generation import Generation
from tests.support.lake import Archived

START = datetime(2026, 3, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOW, DELAY = timedelta(minutes=5), timedelta(minutes=10)
QUERIES = {"items": None, "product_totals": None, "leaderboard": None, "tumbling": WINDOW, "sliding": 2 * WINDOW,
           "final_windows": WINDOW}  # fmt: skip
LETTERS = names.dead_letter_topic("pos")
TOPIC_DDL = (
    "key binary, value binary, partition int, offset bigint, timestamp timestamp, _id string, _generation int, _batch bigint, "
    "_reason string, _cut string, _query string"
)
RECENT = timedelta(days=5)  # retention of the topics
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Sale:
    """A record of the source topic; `reason` if the contract refuses it."""

    partition: int
    offset: int
    at: datetime
    happened: datetime
    product: str
    amount: Decimal
    reason: str | None = None

    def archived(self, more: dict[str, Any]) -> Archived:
        """Return its row in the archive, with further columns of the contract."""
        value: Any = {
            "product_id": self.product,
            "amount": self.amount,
            "create_date": self.happened.replace(tzinfo=None),
        }
        if self.reason:
            value = self.bytes
        return Archived(
            self.partition,
            self.offset,
            self.at.replace(tzinfo=None),
            value if self.reason else value | more,
            self.reason,
        )

    @property
    def bytes(self) -> bytes:
        """Return the value of a refused record."""
        return f'{{"product_id": "{self.product}", "amount": "much"}}'.encode()


@dataclass
class Topic:
    """A topic that we write, of one partition: (written, row after `offset` and `timestamp` as in TOPIC_DDL)."""

    rows: list[tuple[int, datetime, tuple[Any, ...]]] = field(default_factory=list)
    end: int = 0

    def send(self, at: datetime, *row: Any) -> None:
        """Append a record: key, value, id, generation, batch, reason, query."""
        self.rows.append((self.end, at, row))
        self.end += 1

    def expire(self, now: datetime) -> None:
        """Delete what is older than the retention."""
        self.rows = [row for row in self.rows if row[1] >= now - RECENT]

    @property
    def begin(self) -> int:
        """Return the first offset that is left."""
        return self.rows[0][0] if self.rows else self.end

    def frame(self, spark: SparkSession) -> DataFrame:
        """Return the records as `sink_frames.topic` does."""
        rows = [(k, v, 0, offset, at, i, g, b, reason, None, q) for offset, at, (k, v, i, g, b, reason, q) in self.rows]
        return spark.createDataFrame(rows, TOPIC_DDL)


class Stream:
    """One query: its generation, ledger, watermark, and the rows that it has written with their batch."""

    def __init__(self, root: str, pipeline: str, name: str) -> None:
        self.root, self.name, self.window = root, name, QUERIES.get(name)
        self.generation: Generation = generation.begin(root, pipeline, name, {})
        self.batch, self.watermark, self.newest = -1, EPOCH, EPOCH
        self.ends: dict[int, int] | None = None
        self.contract = ""
        self.state: dict[Key, tuple[Decimal, int]] = {}

    def take(
        self, sales: list[Sale], ends: dict[int, int], began: datetime, *, restarted: bool
    ) -> dict[Key, tuple[Decimal, int]]:
        """Take one batch, note it in the ledger, and return the keys that it changes with their new sums."""
        late = self.watermark
        if restarted:
            self.newest = EPOCH
        self.watermark = max(self.watermark, self.newest - DELAY)
        self.batch += 1
        changed: dict[Key, tuple[Decimal, int]] = {}
        for sale in (sale for sale in sales if not sale.reason):
            for key in self._keys(sale, late):
                amount, count = self.state.get(key, (Decimal(0), 0))
                self.state[key] = changed[key] = (amount + sale.amount, count + 1)
            self.newest = max(self.newest, sale.happened)
        starts = self.ends or {p: end - sum(s.partition == p for s in sales) for p, end in ends.items()}
        self.ends = dict(ends)
        record = ledger.make_record(
            f"{self.generation.pipeline}.{self.name}", self.generation.number,
            BatchRange(self.batch, {"pos": starts}, {"pos": dict(ends)}, _ms(self.watermark), _ms(late)),
            rows_out=len(sales), began_ms=_ms(began), written_ms=_ms(began) + 1000, contract=self.contract,
        )  # fmt: skip
        ledger.write(self.generation.paths(self.root).ledger, record)
        return changed

    @property
    def micros(self) -> int:
        """Return the write time of the newest batch."""
        return self.generation.started_micros + self.batch

    def closed(self) -> Iterator[Key]:
        """Yield the keys of windows of this generation that the watermark has passed."""
        assert self.window
        return (key for key in self.state if key[0] + self.window <= self.watermark)

    def _keys(self, sale: Sale, late: datetime) -> Iterator[Key]:
        if self.window is None:
            yield (sale.product,)
            return
        start = EPOCH + (sale.happened - EPOCH) // WINDOW * WINDOW
        for _ in range(self.window // WINDOW):
            if start + self.window > late:
                yield (start, sale.product)
            start -= WINDOW


class Shop:
    """The source topic, the streams and their sinks, day by day."""

    def __init__(self, root: str, pipeline: str, seed: int, a_day: int) -> None:
        self.root, self.pipeline, self.a_day = root, pipeline, a_day
        self.chance = random.Random(seed)
        self.now = START
        self.ends = {0: 0, 1: 0}
        self.streams = {name: Stream(root, pipeline, name) for name in (*QUERIES, names.archive_query("pos"))}
        self.tables: dict[str, dict[Key, tuple[Decimal, int, int]]] = {
            name: {} for name in ("product_totals", "leaderboard", "tumbling", "sliding")
        }
        self.topics = {"pos_items": Topic(), "pos_final_windows": Topic(), LETTERS: Topic()}
        self.emitted: set[Key] = set()
        self.restarts = 0

    def day(self) -> list[Sale]:
        """Live through a day of 12 batches; return its records."""
        arrivals = sorted(self.chance.uniform(0, 86_399) for _ in range(self.a_day))
        sales = [self._sale(self.now + timedelta(seconds=int(at))) for at in arrivals]
        for part in range(12):
            begin, end = self.now + timedelta(hours=2 * part), self.now + timedelta(hours=2 * part + 2)
            self._batch([sale for sale in sales if begin <= sale.at < end], end)
        self.now += timedelta(days=1)
        for topic in self.topics.values():
            topic.expire(self.now)
        return sales

    def begin_again(self, name: str) -> None:
        """Begin a new generation of a query from here on; the rows of the former stay."""
        self.streams[name] = Stream(self.root, self.pipeline, name)

    def frame(self, spark: SparkSession, name: str) -> DataFrame:
        """Return a table as `sink_frames.cassandra` does."""
        rows: list[tuple[Any, ...]] = []
        for key, (amount, count, micros) in self.tables[name].items():
            first = (key[0], key[0] + QUERIES[name]) if len(key) == 2 else ("all",) if name == "leaderboard" else ()
            rows.append((*first, key[-1], amount, count, micros))
        begin = {"leaderboard": "board string, ", "product_totals": ""}.get(
            name, "window_start timestamp, window_end timestamp, "
        )
        return spark.createDataFrame(
            rows, f"{begin}product_id string, total_amount decimal(22,2), sales bigint, _written bigint"
        )

    def _sale(self, at: datetime) -> Sale:
        partition = self.chance.randrange(2)
        offset, self.ends[partition] = self.ends[partition], self.ends[partition] + 1
        how = self.chance.random()
        delay = self.chance.randrange(60) if how < 0.92 else self.chance.randrange(5 * 3600, 60 * 3600)
        amount = Decimal(self.chance.randrange(-500, 9999)) / 100
        happened = max(at - timedelta(seconds=delay), START)
        reason = "bad_number: amount: much is no decimal" if self.chance.random() < 0.04 else None
        return Sale(
            partition, offset, at, happened, f"p{self.chance.randrange(12)}", amount.quantize(Decimal("0.01")), reason
        )

    def _batch(self, sales: list[Sale], began: datetime) -> None:
        ends = {
            p: max((sale.offset + 1 for sale in sales if sale.partition == p), default=self._taken(p))
            for p in self.ends
        }
        restarted = self.chance.random() < 0.08
        self.restarts += restarted
        written = began + timedelta(seconds=1)
        for name, stream in self.streams.items():
            changed = stream.take(sales, ends, began, restarted=restarted)
            if name in self.tables:
                self.tables[name] |= {key: (*sums, stream.micros) for key, sums in changed.items()}
        totals, board = self.streams["leaderboard"].state, self.streams["leaderboard"]
        self.tables["leaderboard"] = {key: (*sums, board.micros) for key, sums in totals.items()}
        items, archive, final = (
            self.streams["items"],
            self.streams[names.archive_query("pos")],
            self.streams["final_windows"],
        )
        for sale in sales:
            place = f"pos/{sale.partition}/{sale.offset}"
            if sale.reason:
                query = f"{self.pipeline}.{archive.name}"
                self.topics[LETTERS].send(
                    written, None, sale.bytes, place, archive.generation.number, archive.batch, sale.reason, query
                )
            else:
                text = f'{{"product_id":"{sale.product}","amount":{sale.amount}}}'
                self.topics["pos_items"].send(
                    written,
                    sale.product.encode(),
                    text.encode(),
                    place,
                    items.generation.number,
                    items.batch,
                    None,
                    None,
                )
        for start, product in sorted(set(final.closed()) - self.emitted):
            amount, count = final.state[start, product]
            row = {"window_start": _iso(start), "window_end": _iso(start + WINDOW), "product_id": product}
            text = json.dumps(row)[:-1] + f', "total_amount": {amount}, "sales": {count}}}'
            self.topics["pos_final_windows"].send(
                written,
                product.encode(),
                text.encode(),
                f"{_iso(start)}|{product}",
                final.generation.number,
                final.batch,
                None,
                None,
            )
            self.emitted.add((start, product))

    def _taken(self, partition: int) -> int:
        ends = self.streams["items"].ends
        return ends[partition] if ends else 0


def _ms(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.000000Z"
