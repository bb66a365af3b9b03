"""The identity of quarantined records: each record that a query passed over is a dead letter of this query (ADR 49)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyspark.sql import functions as F

from headrace.batch import accounting, archive_reader
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.batch.reconcile import retained, single_rows, sink_frames
from headrace.batch.reconcile.kinds import Cut
from headrace.batch.reconcile.sink_frames import OFFSET, PARTITION
from headrace.contract import names
from headrace.contract.platform_columns import SOURCE
from headrace.driver import refusals, source
from headrace.store import quarantine
from headrace.store.job_reports import Account

KIND = "quarantine"


def compare(job: Job, query: str, cut: Cut, archives: Mapping[str, Archive], since_ms: int) -> Iterator[Account]:
    """Yield one account for each topic of which the cut's batches passed over records; `compared` counts these records."""
    passed = quarantine.passed_by(job.root, cut.generation)
    for topic in sorted({entry.topic for entry in passed}) if cut.certain else ():
        entries = [entry for entry in passed if entry.topic == topic]
        letters_topic = names.dead_letter_topic(topic)
        account = Account(query, f"topic {letters_topic}", KIND, cut.generation.number, cut.batch)
        with accounting.persisted(sink_frames.topic(job, letters_topic)) as all_letters:
            all_letters.count()
            since = max(since_ms, retained.since_ms(job, letters_topic, all_letters))
            passed_over = (F.col("_query") == names.query_name(job.pipeline.name, query)) & F.col("_reason").startswith(
                f"{refusals.QUARANTINED}:"
            )
            letters = sink_frames.placed_by_id(all_letters.where(passed_over), topic)
            rows = archive_reader.records(job.spark, archives[topic]).where(source.among(entries))
            rows = accounting.batch_of(rows.withColumn(SOURCE, F.struct(*archive_reader.COORDINATES)), cut.certain)
            taken = rows.where(F.col(accounting.BATCH).isNotNull() & (F.unix_millis("timestamp") >= since))
            refused = taken.select(F.col("partition").alias(PARTITION), F.col("offset").alias(OFFSET), "key", "value")
            account.compared = refused.count()
            command = f"headrace dead-letters quarantine {job.pipeline.name}"
            account.note = f"{account.compared} records are in the quarantine: {command}"
            # Letters of batches beyond the cut, and of lines of generations that passed over other offsets.
            past = {number: end for number, (_, end) in cut.certain[-1]["offsets"].get(topic, {}).items()}
            placed = letters.withColumn("topic", F.lit(topic)).withColumn("partition", F.col(PARTITION))
            placed = archive_reader.before(
                placed.withColumn("offset", F.col(OFFSET)).where(source.among(entries)), past
            )
            single_rows.lettered(account, topic, refused, placed, since, "not in the quarantine")
        yield account
