"""The identities of single records: a projection's rows in a topic or in files, and archive = accepted + dead letters.

Both sides are first summed in small buckets of source offsets, by count and by a hash of the rows; only buckets that
differ are compared row by row. A duplicate from an at-least-once write is not a difference: rows are identified by id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from types import MappingProxyType

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader
from headrace.batch.archive_reader import Archive
from headrace.batch.reconcile import bounds, sink_frames
from headrace.batch.reconcile.kinds import KEEP
from headrace.batch.reconcile.sink_frames import OFFSET, PARTITION
from headrace.contract.model import KafkaSink, Query
from headrace.contract.platform_columns import SOURCE
from headrace.driver import sinks
from headrace.driver.queries import Transform
from headrace.store.file_sink import Directory
from headrace.store.gaps import Loss
from headrace.store.job_reports import Account, Difference
from headrace.store.ledger import BatchRecord

BUCKET = 4096  # source offsets


def placed(transform: Transform, records: DataFrame, portions: Sequence[Sequence[BatchRecord]]) -> DataFrame:
    """Return the rows that a query made of the records of some batches, with `accounting.BATCH`.

    A transform need not return SOURCE. Without it, each row has the last batch of its portion.
    """
    frames = []
    for ledger in filter(None, portions):
        number = F.col(accounting.BATCH)
        made = transform(records.where(number.between(ledger[0]["batch"], ledger[-1]["batch"])))
        last = F.lit(ledger[-1]["batch"])
        frames.append(
            accounting.batch_of(made, ledger) if SOURCE in made.columns else made.withColumn(accounting.BATCH, last)
        )
    return reduce(DataFrame.unionByName, frames)


def as_one(
    rows: DataFrame, ledger: Sequence[BatchRecord], directories: Sequence[Directory]
) -> tuple[DataFrame, list[Directory]]:
    """Return the rows of a folder's directories, and the directories, as if the ledger's batches shared one directory."""
    first, last = ledger[0]["batch"], ledger[-1]["batch"]
    inside = [directory.first for directory in directories if first <= directory.first and directory.last <= last]
    together = rows.where(F.col("batch_id").isin(inside)).withColumn("batch_id", F.lit(first))
    return together, [Directory(first, last, "")]


def in_topic(
    account: Account, query: Query, expected: DataFrame, sent: DataFrame, ledger: Sequence[BatchRecord]
) -> None:
    """Compare a projection's rows with the records of its topic.

    `expected` has exactly the query's columns and SOURCE; `sent` comes from `sink_frames.placed_by_id`. Only source
    offsets of the ledger's batches are compared; the caller leaves out batches that retention may have reached.
    """
    first, past = bounds.span(ledger, query.sources[0])
    inside = archive_reader.before(sent, past, OFFSET, PARTITION)
    inside = archive_reader.beyond(inside, first, OFFSET, PARTITION)
    made = expected.select(
        F.col(f"{SOURCE}.partition").alias(PARTITION),
        F.col(f"{SOURCE}.offset").alias(OFFSET),
        sinks.json_of(query).alias("text"),
    )
    made = archive_reader.beyond(archive_reader.before(made, past, OFFSET, PARTITION), first, OFFSET, PARTITION)
    sent_rows = inside.withColumn("text", F.col("value").cast("string"))
    sums = _bucket_sums(made, "made").join(_bucket_sums(sent_rows, "found"), ["_p", "_bucket"], "full")
    account.compared = int(sums.agg(F.coalesce(F.sum("made_rows"), F.lit(0))).first()[0])
    broken = sums.where(
        ~(F.col("made_rows").eqNullSafe(F.col("found_rows")) & F.col("made_hash").eqNullSafe(F.col("found_hash")))
    ).select("_p", "_bucket")
    broken = F.broadcast(broken.localCheckpoint())
    ours = _with_bucket(made).join(broken, ["_p", "_bucket"], "left_semi").select(PARTITION, OFFSET, "text")
    theirs = sink_frames.newest_of_each(_with_bucket(sent_rows).join(broken, ["_p", "_bucket"], "left_semi")).select(
        PARTITION, OFFSET, F.col("text").alias("sent")
    )
    pairs = ours.join(theirs, [PARTITION, OFFSET], "full").where(~F.col("text").eqNullSafe(F.col("sent")))
    what = (
        F.when(F.col("sent").isNull(), "missing in the sink")
        .when(F.col("text").isNull(), "in the sink without records")
        .otherwise("differs")
    )
    by_batch(account, pairs.withColumn("what", what), query.sources[0], ledger)


def by_identity(
    account: Account, query: Query, sink: KafkaSink, made: DataFrame, sent: DataFrame, ledger: Sequence[BatchRecord],
    generation: int,
) -> None:  # fmt: skip
    """Compare rows that declared columns identify with the records of their topic: each row is the newest one of its id.

    `made` are the rows of the ledger's batches, with the query's columns; `sent` comes from `sink_frames.topic`. A record that
    another batch or generation wrote need not be a row of these batches.
    """
    texts = made.select(sinks.identity(sink).alias("_id"), sinks.json_of(query).alias("text"))
    ours = texts.groupBy("_id").agg(F.collect_set("text").alias("texts"))
    records = sink_frames.identified(sent.withColumn("_text", F.col("value").cast("string")), query, sink)
    theirs = sink_frames.newest_of_each(records.select("_id", "_text", sink_frames.GENERATION, sink_frames.BATCH))
    by_these = (F.col(sink_frames.GENERATION) == generation) & F.col(sink_frames.BATCH).between(
        ledger[0]["batch"], ledger[-1]["batch"]
    )
    with accounting.persisted(ours.join(theirs, "_id", "full")) as pairs:
        what = F.when(F.col("_text").isNull(), "missing in the sink").when(
            by_these & ~F.coalesce(F.array_contains("texts", F.col("_text")), F.lit(False)),
            F.when(F.col("texts").isNull(), "in the sink without records").otherwise("differs"),
        )
        wrong = pairs.withColumn("what", what).where("what IS NOT NULL")
        account.compared = pairs.where("texts IS NOT NULL").count()
        account.differing = wrong.count()
        for row in wrong.orderBy("_id").limit(KEEP).collect():
            account.differences.append(
                Difference(
                    row.what,
                    {"id": row["_id"]},
                    due={"row": row.texts[0]} if row.texts else None,
                    speed={"row": row["_text"]} if row["_text"] else None,
                    batches=() if row[sink_frames.BATCH] is None else (row[sink_frames.BATCH],),
                )
            )


def in_files(
    account: Account,
    query: Query,
    made: DataFrame,
    rows: DataFrame,
    ledger: Sequence[BatchRecord],
    directories: Sequence[Directory],
) -> None:
    """Compare a projection's rows with the directories of its folder: each must have exactly the rows of its batches.

    The batches are those of the ledger. `made` comes from `placed`, with the query's columns; `rows` comes from
    `sink_frames.files`. A batch without a directory forms its own group.
    """
    complete = [directory for directory in directories if directory.last <= ledger[-1]["batch"]]
    taken = made.sparkSession.createDataFrame(
        [(directory.first, directory.last) for directory in complete], "_first BIGINT, _last BIGINT"
    )
    number = F.col(accounting.BATCH)
    made = made.where(number.between(ledger[0]["batch"], ledger[-1]["batch"]))
    inside = (F.col("_first") <= number) & (number <= F.col("_last"))
    digest = F.xxhash64(*query.columns)
    made = made.join(F.broadcast(taken), inside, "left").groupBy(F.coalesce("_first", number).alias("batch"))
    made = made.agg(F.count(F.lit(1)).alias("made_rows"), F.sum(digest).alias("made_hash"))
    by_directory = rows.where(F.col("batch_id").isin([directory.first for directory in complete])).groupBy(
        F.col("batch_id").alias("batch")
    )
    by_directory = by_directory.agg(F.count(F.lit(1)).alias("found_rows"), F.sum(digest).alias("found_hash"))
    both = made.join(by_directory, "batch", "full").collect()
    account.compared = sum(row.made_rows or 0 for row in both)
    lasts = {directory.first: directory.last for directory in complete}
    for row in sorted(both, key=lambda row: row.batch):
        if row.made_rows == row.found_rows and row.made_hash == row.found_hash:
            continue
        account.differing += 1
        batches = list(range(row.batch, lasts.get(row.batch, row.batch) + 1))
        first, past = bounds.span([record for record in ledger if record["batch"] in batches], query.sources[0])
        missing = row.found_rows is None
        what = "missing in the sink" if missing else "in the sink without records" if not row.made_rows else "differs"
        topic = query.sources[0]
        account.differences.append(
            Difference(
                what,
                {"batch": row.batch},
                batch={"rows": row.made_rows or 0},
                speed={"rows": row.found_rows or 0},
                late={"rows": 0},
                batches=tuple(batches),
                offsets={f"{topic}/{p}": (first[p], end - 1) for p, end in past.items() if end > first[p]},
            )
        )
    del account.differences[KEEP:]


def archive(
    account: Account, snapshot: Archive, rows: DataFrame, letters: DataFrame, since_ms: int,
    decoded: int | None, losses: Sequence[Loss] = (), seen: Mapping[str, int] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Check that the archive lacks no record, each refused record is a dead letter, and each dead letter a refused record.

    `rows` are the archive's, each offset once; `losses` come from `archive_reader.losses`; `letters` come from
    `sink_frames.placed_by_id`, without those refused by a query instead of the contract. `since_ms` is the broker time
    from which the dead-letter topic is complete. `decoded` is the number of accepted records that today's contract still
    accepts (None: not determined); records that it now refuses are noted, but are not differences. `seen`: partition -> the
    offset before which refused records and letters were compared by an earlier run, and are left out.
    """
    counts = rows.agg(
        F.count(F.lit(1)).alias("all"), F.count(F.when(F.col("reason").isNull(), True)).alias("accepted")
    ).first()
    assert counts is not None
    account.compared = counts["all"]
    for loss in losses:
        account.differing += loss.records
        account.differences += _lost(loss, snapshot.topic)
    narrower = 0 if decoded is None else counts["accepted"] - decoded
    if narrower:
        # The archive and its letters are right: the contract changed. A sink that still counts these records differs by itself.
        account.note = (
            f"today's contract refuses {narrower} records that were accepted on arrival: batch views and rebuilds leave "
            "them out"
        )
    recent = F.unix_millis("timestamp") >= since_ms
    refused = rows.where(F.col("reason").isNotNull()).where(recent)
    refused = refused.select(F.col("partition").alias(PARTITION), F.col("offset").alias(OFFSET), "key", "value")
    refused = archive_reader.beyond(refused, seen, OFFSET, PARTITION)
    letters = archive_reader.before(letters, snapshot.ends, OFFSET, PARTITION)
    letters = archive_reader.beyond(letters, seen, OFFSET, PARTITION)
    lettered(account, snapshot.topic, refused, letters, since_ms, "not refused in the archive")


def lettered(
    account: Account, topic: str, refused: DataFrame, letters: DataFrame, since_ms: int, otherwise: str
) -> None:
    """Check that each refused record is a dead letter with its bytes, and each dead letter a refused record.

    Both have PARTITION, OFFSET, key and value; letters also `_cut`. `otherwise` says what a surplus letter's record is. If
    `since_ms` is not 0, the dead-letter topic is complete only from then, and surplus letters say nothing.
    """
    theirs = letters.groupBy(PARTITION, OFFSET).agg(
        F.first("key").alias("sent_key"),
        F.first("value").alias("sent_value"),
        F.first("_cut").alias("cut"),
        F.lit(True).alias("there"),
    )
    pairs = refused.withColumn("here", F.lit(True)).join(theirs, [PARTITION, OFFSET], "full")
    wrong = pairs.where(
        F.col("here").isNull()
        | F.col("there").isNull()
        | ~_as_sent("key").eqNullSafe(F.col("sent_key"))
        | ~_as_sent("value").eqNullSafe(F.col("sent_value"))
    )
    if since_ms:  # for older records the dead-letter topic is incomplete, so nothing can be concluded
        wrong = wrong.where(F.col("here").isNotNull())
    what = (
        F.when(F.col("there").isNull(), "refused, but no dead letter")
        .when(F.col("here").isNull(), f"a dead letter, but {otherwise}")
        .otherwise("a dead letter with other bytes than the archive")
    )
    spots = wrong.select(PARTITION, OFFSET, what.alias("what")).orderBy(PARTITION, OFFSET)
    account.differing += spots.count()
    for row in spots.limit(KEEP).collect():
        account.differences.append(_range(row.what, topic, row[PARTITION], row[OFFSET], row[OFFSET], 1))
    del account.differences[KEEP:]


def _lost(loss: Loss, topic: str) -> list[Difference]:
    """Return the places of a loss: if some of a batch's offsets never held a record, the lost ones are among its gaps."""
    spans = [(partition, span) for partition, parts in sorted(loss.spans.items()) for span in parts]
    among = sum(past - first for _, (first, past) in spans)
    what = "missing in the archive"
    if loss.records < among:
        what += f": {loss.records} records among these {among} offsets"
    return [_range(what, topic, p, first, past - 1, past - first, loss.batch) for p, (first, past) in spans[:KEEP]]


def _as_sent(name: str) -> Column:
    """Return the bytes of a record that its letter has: all of them, or the beginning if the letter was too large."""
    begins = F.col(name).substr(F.lit(1), F.octet_length(f"sent_{name}"))
    return F.when(F.col("cut").isNull(), F.col(name)).otherwise(begins)


def by_batch(account: Account, pairs: DataFrame, topic: str, ledger: Sequence[BatchRecord]) -> None:
    """Add one difference per batch, partition and kind to the account, with its first and last offset."""
    ranges = [
        (record["batch"], int(partition), start, end)
        for record in ledger
        for parts in record["offsets"].values()
        for partition, (start, end) in parts.items()
        if end > start
    ]
    taken = pairs.sparkSession.createDataFrame(ranges, "batch BIGINT, p INT, first BIGINT, past BIGINT")
    condition = (F.col("p") == F.col(PARTITION)) & (F.col("first") <= F.col(OFFSET)) & (F.col(OFFSET) < F.col("past"))
    rows = (
        pairs.join(F.broadcast(taken), condition, "left")
        .groupBy("what", "batch", PARTITION)
        .agg(F.min(OFFSET).alias("low"), F.max(OFFSET).alias("high"), F.count(F.lit(1)).alias("count"))
        .orderBy("batch", PARTITION)
        .collect()
    )
    account.differing += sum(row["count"] for row in rows)
    account.differences += [
        _range(row.what, topic, row[PARTITION], row.low, row.high, row["count"], row.batch) for row in rows[:KEEP]
    ]


def _range(
    what: str, topic: str, partition: int, first: int, last: int, count: int, batch: int | None = None
) -> Difference:
    """Return the difference of `count` records of a partition, of offsets from `first` to `last`."""
    return Difference(
        what,
        {"topic": topic, "partition": partition},
        batches=() if batch is None else (batch,),
        offsets={f"{topic}/{partition}": (first, last)},
        rows=count,
    )


def _with_bucket(rows: DataFrame) -> DataFrame:
    bucket: Column = F.floor(F.col(OFFSET) / F.lit(BUCKET)).cast("bigint")
    return rows.withColumn("_p", F.col(PARTITION)).withColumn("_bucket", bucket)


def _bucket_sums(rows: DataFrame, side: str) -> DataFrame:
    digest = F.xxhash64(PARTITION, OFFSET, "text")
    return (
        _with_bucket(rows)
        .groupBy("_p", "_bucket")
        .agg(F.count(F.lit(1)).alias(f"{side}_rows"), F.sum(digest).alias(f"{side}_hash"))
    )
