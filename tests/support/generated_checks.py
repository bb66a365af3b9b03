"""Every sink of a generated pipeline against `generated_expected`: archive, dead letters, topics, tables, files, ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT
from cassandra.query import tuple_factory

from headrace.contract import names
from headrace.contract.model import CassandraSink, FilesSink, KafkaSink, Query
from headrace.operations.clients import stored_time
from headrace.store import file_sink, ledger
from tests.support import actual
from tests.support.drivers import Message
from tests.support.generated_expected import (
    Groups,
    Judged,
    Row,
    Rows,
    groups_of,
    micros,
    newest_cells,
    parsed,
    read_row,
    read_value,
    require_same,
    require_same_rows,
    require_watermarks,
    rows_of,
    stored,
    watermarks_of,
)
from tests.support.generated_records import committed
from tests.support.generated_stage import Runner

OWN = ("headrace.id", "headrace.reason", "headrace.cut", "headrace.query", "headrace.generation", "headrace.batch",
       "headrace.topic", "headrace.partition", "headrace.offset")  # fmt: skip


@dataclass
class Checks:
    """The comparisons of one seed: what differs, and how many records and rows were compared."""

    runner: Runner
    messages: Mapping[str, Sequence[Message]]
    judged: Mapping[str, Judged]
    differences: list[str] = field(default_factory=list)
    compared: int = 0

    def all(self) -> None:
        """Compare everything."""
        pipeline = self.runner.stage.pipeline
        letters = {topic: self._letters(topic) for topic in pipeline.sources}
        begun = [name for name in names.query_names(pipeline) if any(self.messages[t] for t in self._sources(name))]
        ledgers = {name: self.runner.stage.ledger(name) for name in begun}
        for name, batches in ledgers.items():
            self._try(self._ledger, name, batches)
        for topic in pipeline.sources:
            if self.messages[topic]:
                self._try(self._archive, topic, letters[topic].pop(names.archive_query(topic), []))
        for name, query in pipeline.queries.items():
            mine = letters[query.sources[0]].pop(name, [])
            if name in self.runner.generated.made:
                self._stateless(name, query, mine)
            else:
                self._aggregate(name, query, mine, ledgers.get(name, []))
        self.differences += [f"letters of {topic} from {list(more)}" for topic, more in letters.items() if more]

    def watermark(self, name: str, batches: Sequence[ledger.BatchRecord]) -> int:
        """Return the watermark that a query comes to after these batches."""
        query = self.runner.stage.pipeline.queries[name]
        return watermarks_of(query, self.judged, batches, self.runner.restarts[name])[-1]

    def _stateless(self, name: str, query: Query, letters: Sequence[Message]) -> None:
        (topic,) = query.sources
        generated = self.runner.generated
        rows = rows_of(query, generated.made[name], self.judged[topic], generated.lookups.get(name))
        self._try(self._record_letters, name, topic, rows, letters)
        for sink in query.sinks:
            self._try(self._rows, name, query, sink, rows)

    def _aggregate(
        self, name: str, query: Query, letters: Sequence[Message], batches: Sequence[ledger.BatchRecord]
    ) -> None:
        if query.watermark:
            self._try(require_watermarks, query, self.judged, batches, self.runner.restarts[name])
        join = self.runner.generated.joins.get(name)
        if join:
            groups = join.result(query, self.judged, batches)
        else:
            groups = groups_of(query, self.runner.generated.sums[name], self.judged[query.sources[0]], batches)
        self._try(self._group_letters, name, query, groups, letters)
        for sink in query.sinks:
            self._try(self._groups, name, query, sink, groups)

    def _try(self, check: Callable[..., None], *args: Any) -> None:
        try:
            check(*args)
        except AssertionError as difference:
            self.differences.append(str(difference)[:4000])

    def _sources(self, query: str) -> list[str]:
        declared = self.runner.stage.pipeline.queries.get(query)
        return list(declared.sources) if declared else [names.archived_topic(self.runner.stage.pipeline, query)]

    def _ledger(self, query: str, batches: Sequence[ledger.BatchRecord]) -> None:
        """Consecutive batches, without gaps between their offsets; as many records as Kafka has."""
        position: dict[tuple[str, str], int] = {}
        assert [batch["batch"] for batch in batches] == list(range(len(batches))), f"batches of {query}: {batches}"
        for batch in batches:
            for topic, parts in batch["offsets"].items():
                for partition, (start, end) in parts.items():
                    assert start == position.get((topic, partition), 0), f"{query} leaves a gap: {batch}"
                    position[topic, partition] = end
        taken, given = (
            sum(batch["rows_in"] for batch in batches),
            sum(len(self.messages[t]) for t in self._sources(query)),
        )
        assert taken == given, f"{query}: the ledger has {taken} records, Kafka {given}"

    def _archive(self, topic: str, letters: Sequence[Message]) -> None:
        """Archive = topic, byte for byte; refused records are letters, with a rule that they break."""
        messages, judged = self.messages[topic], self.judged[topic]
        rows = actual.archive(self.runner.stage, topic)
        require_same(
            {row[:2]: row for row in rows},
            {row[:2]: row for row in actual.as_archived(messages)},
            f"archive of {topic}",
        )
        assert len(rows) == len(messages), f"archive of {topic} has {len(rows)} rows for {len(messages)} records"
        self.compared += len(rows)
        records = {(m.partition, m.offset): m for m in messages}
        self._letters_of_records(topic, "the archive", letters, {place: records[place] for place in judged.refused})
        for letter in letters:
            word = letter.header("headrace.reason").partition(":")[0]
            words = judged.refused[int(letter.header("headrace.partition")), int(letter.header("headrace.offset"))]
            assert word in words, f"{letter} has reason {word}, the record breaks {words}"

    def _record_letters(self, name: str, topic: str, rows: Rows, letters: Sequence[Message]) -> None:
        records = {(m.partition, m.offset): m for m in self.messages[topic]}
        self._letters_of_records(
            topic, name, letters, {place: records[place] for place in rows.refused | rows.unsure}, rows.unsure
        )
        for letter in letters:
            place = int(letter.header("headrace.partition")), int(letter.header("headrace.offset"))
            reason = "unmatched: " if place in rows.unmatched else "not_written: "
            assert letter.header("headrace.reason").startswith(reason), letter

    def _letters_of_records(
        self,
        topic: str,
        what: str,
        letters: Sequence[Message],
        records: Mapping[tuple[int, int], Message],
        unsure: Iterable[Any] = (),
    ) -> None:
        """One letter for each record: its key, value and headers, its coordinates."""
        wanted = {}
        for (partition, offset), record in records.items():
            headers = [(f"record.{key}" if key in OWN else key, value) for key, value in record.headers]
            wanted[f"{topic}/{partition}/{offset}"] = (
                record.key,
                record.value,
                headers,
                (topic, str(partition), str(offset)),
            )
        by_id = {}
        for letter in letters:
            place = tuple(letter.header(f"headrace.{part}") for part in ("topic", "partition", "offset"))
            theirs = [(key, value) for key, value in letter.headers if key not in OWN]
            by_id[letter.header("headrace.id")] = (letter.key, letter.value, theirs, place)
        optional = {f"{topic}/{partition}/{offset}" for partition, offset in unsure}
        require_same(by_id, wanted, f"letters of {topic} by {what}", optional)
        assert len(by_id) == len(letters), f"letters of {topic} by {what}: {len(letters)}, but {len(by_id)} ids"
        self.compared += len(letters)

    def _group_letters(self, name: str, query: Query, groups: Groups, letters: Sequence[Message]) -> None:
        """One letter for each batch in which a refused group was due: its row as JSON."""
        sent = [{"batch": int(m.header("headrace.batch"))} | read_row(query, parsed(m.value)) for m in letters]
        refused = [{"batch": batch} | row for batch, row in groups.refused]
        if query.join:  # equal rows of one batch have one id
            sent, refused = distinct(sent), distinct(refused)
            letters = list({letter.header("headrace.id"): letter for letter in letters}.values())
        require_same_rows(sent, refused, f"letters by {name}")
        assert all(letter.header("headrace.reason").startswith("not_written: ") for letter in letters)
        assert len({letter.header("headrace.id") for letter in letters}) == len(letters)
        self.compared += len(letters)

    def _rows(self, name: str, query: Query, sink: Any, rows: Rows) -> None:
        unsure = [rows.taken[place] for place in rows.unsure]
        match sink:
            case CassandraSink():
                self._cells(name, query, sink, rows)
            case KafkaSink():
                messages = self._topic(query, sink)
                if sink.identity == "source":
                    (topic,) = query.sources
                    wanted = {f"{topic}/{p}/{o}": row for (p, o), row in rows.taken.items()}
                    optional = {f"{topic}/{p}/{o}" for p, o in rows.unsure}
                    by_id = {m.header("headrace.id"): read_row(query, parsed(m.value)) for m in messages}
                    assert len(by_id) == len(messages), f"{sink.topic}: an id twice"
                    require_same(by_id, wanted, f"topic {sink.topic}", optional)
                else:
                    self._identified(query, sink, messages)
                    sent = [read_row(query, parsed(m.value)) for m in messages]
                    require_same_rows(sent, rows.taken.values(), f"topic {sink.topic}", unsure)
            case FilesSink():
                self._files(name, query, rows.taken.values())

    def _groups(self, name: str, query: Query, sink: Any, groups: Groups) -> None:
        match sink:
            case CassandraSink():
                key = [*sink.partition_key, *sink.clustering_key]
                wanted = {
                    tuple(stored(row[column]) for column in key): {
                        column: stored(value) for column, value in row.items()
                    }
                    for row in groups.table.values()
                }
                require_same(self._table(name, query, sink), wanted, f"table {name}")
                self.compared += len(wanted)
            case KafkaSink():
                messages = self._topic(query, sink)
                self._identified(query, sink, messages)
                sent = [read_row(query, parsed(m.value)) for m in messages]
                require_same_rows(sent, [row for _, row in groups.emitted], f"topic {sink.topic}")
            case FilesSink():
                self._files(name, query, [row for _, row in groups.emitted])

    def _cells(self, name: str, query: Query, sink: CassandraSink, rows: Rows) -> None:
        """Each cell holds the newest value; where a row may be missing, what its key holds is not known."""
        key = [*sink.partition_key, *sink.clustering_key]
        unknown = {tuple(stored(rows.taken[place][column]) for column in key) for place in rows.unsure}
        wanted = newest_cells(query, sink, rows.taken.values())
        table = self._table(name, query, sink)
        known = {
            place: {c: v for c, v in row.items() if c not in key}
            for place, row in table.items()
            if place not in unknown
        }
        require_same(known, {place: row for place, row in wanted.items() if place not in unknown}, f"table {name}")
        self.compared += len(known)

    def _table(self, name: str, query: Query, sink: CassandraSink) -> dict[tuple[Any, ...], Row]:
        keyspace, table = names.cassandra_table(self.runner.stage.name, name, sink)
        columns = ", ".join(f'"{column}"' for column in query.columns)
        session, rows = self.runner.cassandra, {}
        plain = session.execution_profile_clone_update(
            EXEC_PROFILE_DEFAULT, row_factory=tuple_factory, request_timeout=120
        )
        for cells in session.execute(f'SELECT {columns} FROM "{keyspace}"."{table}"', execution_profile=plain):
            row = {column: _from_table(value) for column, value in zip(query.columns, cells, strict=True)}
            rows[tuple(row[column] for column in (*sink.partition_key, *sink.clustering_key))] = row
        return rows

    def _topic(self, query: Query, sink: KafkaSink) -> list[Message]:
        """Return the records of a sink's topic; the key of each is the text of its column."""
        messages = committed(self.runner.client, sink.topic)
        for message in messages:
            key = read_key(query.columns[sink.key].type, (message.key or b"").decode())
            row = read_row(query, parsed(message.value))
            assert key == row[sink.key], f"{sink.topic}: key {message.key!r:.200} of a row with {row[sink.key]!r:.200}"
        self.compared += len(messages)
        return messages

    def _identified(self, query: Query, sink: KafkaSink, messages: Sequence[Message]) -> None:
        """Equal ids for rows with equal identity, different ids for all others."""
        pairs = {
            (m.header("headrace.id"), repr([read_row(query, parsed(m.value))[c] for c in sink.identity]))
            for m in messages
        }
        assert len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs}), f"ids of {sink.topic}"

    def _files(self, name: str, query: Query, wanted: Iterable[Row]) -> None:
        rows = [read_row(query, parsed(line)) for line in self._lines(name)]
        require_same_rows(rows, wanted, f"files of {name}")
        self.compared += len(rows)

    def _lines(self, name: str) -> list[bytes]:
        folder = self.runner.stage.generation(name).paths(self.runner.stage.root).files
        return [line for directory in file_sink.complete(folder) for line in actual.lines_of(directory)]

    def _letters(self, topic: str) -> dict[str, list[Message]]:
        """Return the dead letters of a topic by the short name of the query that wrote them."""
        by_query: dict[str, list[Message]] = {}
        for message in committed(self.runner.client, names.dead_letter_topic(topic)):
            ours = next(value for key, value in message.headers if key == "headrace.query")
            by_query.setdefault((ours or b"").decode().partition(".")[2], []).append(message)
        return by_query


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those that equal an earlier one."""
    return [row for at, row in enumerate(rows) if row not in rows[:at]]


def _from_table(value: Any) -> Any:
    if isinstance(value, datetime):
        return micros(stored_time(value)) // 1000
    days = getattr(value, "days_from_epoch", None)
    return value if days is None else date.fromordinal(date(1970, 1, 1).toordinal() + days)


def read_key(kind: str, text: str) -> Any:
    """Return the value of a record's key in the type of its column."""
    if kind == "timestamp":
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    if kind == "boolean":
        return {"true": True, "false": False}[text]
    return Decimal(text) if kind in ("int", "long") or kind.startswith("decimal") else read_value(kind, text)
