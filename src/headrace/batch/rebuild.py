"""Rebuild a query from the archive after retention deleted records that the query had not read.

The first batches of a new generation come from the archive, and its checkpoint then continues from Kafka. The query's
plan runs over the archive in chunks of broker time, one batch each, with the query's watermark, sinks and state
partitions, so its state is that of a stream. Afterwards the checkpoint's offset log is rewritten with Kafka's offsets in
place of the file source's: from then on Spark cannot distinguish it from a checkpoint that has always read Kafka.
The ledger has every batch, so late rows stay accounted for. The generation becomes current only when its manifest is
written, which is not done here (`operations.batch.rebuild.finish`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from headrace.access.bindings import read_kafka
from headrace.batch import accounting, archive_reader
from headrace.batch.archive_reader import Archive
from headrace.batch.finite_job import Job
from headrace.contract import names
from headrace.contract.job_files import RebuildSpec
from headrace.contract.model import Query
from headrace.driver import lookup_keys, queries, refusals, sinks, source, writer
from headrace.driver.session import kafka_options
from headrace.errors import HeadraceError
from headrace.store import archive_notes, checkpoint_log, contracts, integrity, ledger, quarantine, small_files, trees
from headrace.store.checkpoint_log import BatchRange, Offsets, text_keys
from headrace.store.generation import Generation
from headrace.store.job_reports import RebuildReport
from headrace.store.paths import GenerationPaths
from headrace.store.quarantine import Entries

RAW = "key binary, value binary, topic string, `partition` int, `offset` bigint, timestamp timestamp"


@dataclass
class Progress:
    """What has been fed so far. `chunk` is the end of the chunk that is being fed."""

    starts: Offsets
    chunk: Offsets
    read: Offsets
    records: int = 0  # in the chunk, including refused ones
    ends: dict[int, Offsets] = field(default_factory=dict)  # batch -> its end offsets
    file_ends: dict[int, int] = field(default_factory=dict)  # source number -> newest offset of the file source


@dataclass(frozen=True)
class Rebuild:
    """One rebuild: the query, the generation that it creates, and its folders."""

    job: Job
    name: str
    made: Generation
    paths: GenerationPaths
    scratch: str
    passed: Entries = ()  # the records that the new generation passes over

    @property
    def query(self) -> Query:
        """Return the declared query."""
        return self.job.pipeline.queries[self.name]


def run(job: Job, spec: RebuildSpec) -> RebuildReport:
    """Rebuild the query that the job spec names and return the report, with the future manifest of the generation."""
    began = time.monotonic()
    name = spec.query
    made = Generation(
        pipeline=job.pipeline.name,
        query=name,
        number=spec.number,
        started_micros=spec.started_micros,
        fingerprint={},
        reason=spec.reason,
        by=spec.by,
        at_ms=spec.at_ms,
    )
    paths = made.paths(job.root)
    if small_files.read_json(paths.manifest) is not None:
        raise HeadraceError(f"{paths.folder} is already a generation. Plan the rebuild again.")
    trees.remove(paths.folder)  # left by an aborted attempt; without a manifest it belongs to no generation
    trees.remove(paths.files)
    small_files.write_json(paths.draft, {"reason": made.reason, "at_ms": made.at_ms})
    topics = list(job.pipeline.queries[name].sources)
    pipeline = job.pipeline.name
    reached = {topic: archive_notes.reached(job.root, pipeline, topic) for topic in topics}
    archives = {topic: archive_reader.pin(job.spark, pipeline, topic, reached[topic]) for topic in topics}
    _require_complete(job, archives)
    noted = {topic: archive_notes.newest(job.root, job.pipeline.name, names.archive_query(topic)) for topic in topics}
    small_files.write_json(
        paths.topics, {topic: note.topic_id for topic, note in noted.items() if note and note.topic_id}
    )
    passed = quarantine.passed_by(job.root, made)  # by the ids of its topics
    rebuild = Rebuild(job, name, made, paths, f"{paths.folder}/rebuild", passed)
    cuts = _cuts(job, archives, spec.rows_each)
    starts = {t: _starts(a, _offsets(spec.first.get(t, {}))) for t, a in archives.items()}
    progress = Progress(starts, starts, starts)
    # The number of state partitions is fixed by the first batch (SPARK-19873); adaptive plans would change it.
    job.spark.conf.set("spark.sql.shuffle.partitions", str(job.pipeline.driver.state_partitions))
    job.spark.conf.set("spark.sql.adaptive.enabled", "false")
    rows = {topic: archive_reader.records(job.spark, a) for topic, a in archives.items()}
    for number, cut in enumerate(cuts):
        job.progress(number, len(cuts), f"chunk {number + 1} of {len(cuts)}")
        progress.records = _lay(rebuild, rows, progress.read, cut, number)
        progress.chunk = cut
        _feed(rebuild, progress, rows)
        progress.read = cut
    job.progress(len(cuts), len(cuts), "writing the offset log")
    _to_kafka(rebuild, progress)
    trees.remove(rebuild.scratch)
    stateful = bool(rebuild.query.aggregate or rebuild.query.join)
    wrong = [finding for finding in integrity.structure(paths, stateful=stateful) if finding.severity == "critical"]
    if wrong:
        raise HeadraceError(f"The rebuilt {wrong[0].where} {wrong[0].what} ({wrong[0].fault}). Report this as a bug.")
    return RebuildReport(
        generation=made,
        pipeline=job.pipeline.name,
        query=name,
        batches=len(progress.ends),
        records=sum(sum(part.distinct for part in a.partitions.values()) for a in archives.values()),
        ends={topic: text_keys(parts) for topic, parts in progress.read.items()},
        seconds=round(time.monotonic() - began, 1),
    )


def _require_complete(job: Job, archives: Mapping[str, Archive]) -> None:
    for topic, archive in archives.items():
        lacking = sum(loss.records for loss in archive_reader.losses(job.spark, archive, job.root))
        if archive.snapshot is None or lacking:
            what = f"lacks {lacking} records" if lacking else "is empty"
            raise HeadraceError(
                f"The archive of {topic} {what}, so an exact rebuild is impossible. Run a reconciliation first."
            )


def _starts(archive: Archive, first: dict[int, int]) -> dict[int, int]:
    """Return the start of each partition: its first record in the archive, or Kafka's first offset if it has none there."""
    ends = _offsets(archive.ends)
    known = first | {number: part.first for number, part in archive.partitions.items()}
    return known | {number: min(known.get(number, end), end) for number, end in ends.items()}


def _cuts(job: Job, archives: Mapping[str, Archive], rows_each: int) -> list[Offsets]:
    """Return the end offsets of each chunk, cut by broker time, so that partitions and topics advance together."""
    total = sum(part.distinct for archive in archives.values() for part in archive.partitions.values())
    count = max(1, -(-total // rows_each))
    times = [job.spark.table(names.archive_table(job.pipeline.name, t)).select("timestamp") for t in archives]
    every = times[0] if len(times) == 1 else times[0].unionByName(times[1])
    shares = [number / count for number in range(1, count)]
    quantiles = every.select(F.percentile_approx(F.unix_millis("timestamp"), shares or [0.5])).first()
    borders = sorted(set(quantiles[0])) if quantiles and shares else []
    cuts: list[Offsets] = []
    for border in borders:
        ends: Offsets = {}
        for topic, archive in archives.items():
            before = archive_reader.records(job.spark, archive).where(F.unix_millis("timestamp") < border)
            last = before.groupBy("partition").agg(F.max("offset").alias("last")).collect()
            known = cuts[-1][topic] if cuts else {p: part.first for p, part in archive.partitions.items()}
            ends[topic] = {p: max([known[p], *(r["last"] + 1 for r in last if r.partition == p)]) for p in known}
        cuts.append(ends)
    cuts.append({topic: _offsets(archive.ends) for topic, archive in archives.items()})
    return cuts


def _lay(rebuild: Rebuild, rows: Mapping[str, DataFrame], start: Offsets, end: Offsets, number: int) -> int:
    """Write the accepted records of one chunk as files for the file source; return the number of all its records."""
    count = 0
    for topic, frame in rows.items():
        first = {str(p): offset for p, offset in start[topic].items()}
        past = {str(p): offset for p, offset in end[topic].items()}
        chunk = archive_reader.beyond(archive_reader.before(frame, past), first)
        count += chunk.count()
        chunk = chunk.where("reason IS NULL").select("key", "value", "topic", "partition", "offset", "timestamp")
        chunk.coalesce(2).write.parquet(f"{rebuild.scratch}/{topic}/{number:06d}")
    return count


def _feed(rebuild: Rebuild, progress: Progress, records: Mapping[str, DataFrame]) -> None:
    """Run the query over the last chunk, until it and the batch that advances the watermark are committed."""
    job, query = rebuild.job, rebuild.query
    frames: dict[str, DataFrame] = {}
    for topic in query.sources:
        contract = job.pipeline.sources[topic]
        raw = (
            job.spark.readStream.schema(RAW).option("recursiveFileLookup", "true").parquet(f"{rebuild.scratch}/{topic}")
        )
        typed = source.accepted(raw, contract, source.added_columns(query, contract), rebuild.passed)
        frames[topic] = source.watermarked(typed, topic, query, contract)
    frames |= queries.dimension_frames(job.spark, job.pipeline, query)
    frame = lookup_keys.guarded(job.transforms[rebuild.name](**frames), job.pipeline, query)
    queries.use_state_store(job.spark, query)
    running = (
        frame.writeStream.queryName(f"rebuild of {names.query_name(job.pipeline.name, rebuild.name)}")
        .outputMode(query.mode)
        .trigger(availableNow=True)
        .option("checkpointLocation", rebuild.paths.checkpoint)
        .foreachBatch(_writing(rebuild, progress, records))
        .start()
    )
    running.awaitTermination()


def _writing(rebuild: Rebuild, progress: Progress, records: Mapping[str, DataFrame]) -> Any:  # noqa: ANN401 - a foreachBatch function
    job = rebuild.job
    kafka = kafka_options(read_kafka(job.bindings))
    letters = writer.letters_write(rebuild.query, kafka, lambda _: records[rebuild.query.sources[0]])
    pass_over = writer.passed_write(rebuild.passed, kafka, lambda topic, _: records[topic])
    write = writer.declared_write(job.pipeline, rebuild.name, rebuild.query, rebuild.paths, kafka, letters)
    full = names.query_name(job.pipeline.name, rebuild.name)
    contract = contracts.note(job.root, job.pipeline, rebuild.name)

    def written(frame: DataFrame, number: int) -> None:
        began = time.time_ns() // 1_000_000
        taken = _range(rebuild, progress, number)
        rows_in = progress.records if taken.offsets else 0
        with accounting.persisted(refusals.judged(frame, job.pipeline, rebuild.query)) as judged:
            counts = judged.agg(F.count(F.lit(1)), F.count(refusals.REASON)).first()
            assert counts is not None
            batch = sinks.Batch(full, rebuild.made, number, taken.start, taken.end, int(counts[1]))
            quarantined = pass_over(batch)
            if counts[0] or rebuild.query.mode == "complete":
                write(judged, batch)
        now = time.time_ns() // 1_000_000
        record = ledger.make_record(
            full,
            rebuild.made.number,
            taken,
            rows_in=rows_in,
            rows_out=int(counts[0]) - int(counts[1]),
            refused=int(counts[1]),
            began_ms=began,
            written_ms=now,
            quarantined=quarantined,
            contract=contract,
        )
        ledger.write(rebuild.paths.ledger, record)

    return written


def _range(rebuild: Rebuild, progress: Progress, number: int) -> BatchRange:
    """Return the input of a batch as if Kafka had been read: the chunk, or nothing if only the watermark advances."""
    metadata, lines = _entry(rebuild.paths.checkpoint, number)
    before = _entry(rebuild.paths.checkpoint, number - 1)[0] if number else {"batchWatermarkMs": 0}
    now = {index: int(json.loads(line)["logOffset"]) for index, line in enumerate(lines) if line.startswith("{")}
    start = progress.ends.get(number - 1, progress.starts)
    fresh = {index for index, offset in now.items() if offset > progress.file_ends.get(index, -1)}
    progress.file_ends |= now
    end = progress.chunk if fresh else progress.ends.get(number, start)  # otherwise only the watermark advances
    ends = {topic: {**start.get(topic, {}), **parts} for topic, parts in end.items()}
    progress.ends[number] = ends
    return BatchRange(
        batch=number,
        start={topic: dict(parts) for topic, parts in start.items()},
        end=ends,
        watermark_ms=int(metadata["batchWatermarkMs"]),
        late_watermark_ms=int(before["batchWatermarkMs"]),
    )


def _to_kafka(rebuild: Rebuild, progress: Progress) -> None:
    """Rewrite the checkpoint's source log: replace the file source's entries with those of a Kafka source."""
    folder = rebuild.paths.checkpoint
    order = _source_topics(rebuild)
    for number in checkpoint_log.batches(folder, "offsets"):
        text = small_files.read_text(checkpoint_log.offsets_entry(folder, number))
        assert text is not None
        version, metadata, *lines = text.splitlines()
        offsets_lines = [
            _json({order[index]: text_keys(progress.ends[number][order[index]])}) for index in range(len(lines))
        ]
        _replace(checkpoint_log.offsets_entry(folder, number), "\n".join([version, metadata, *offsets_lines]))
    for index, topic in enumerate(order):
        trees.remove(f"{folder}/sources/{index}")
        # KafkaSourceInitialOffsetWriter: a zero byte (SPARK-19517), the version, the offsets.
        first = _json({topic: text_keys(progress.starts[topic])})
        small_files.write_text(f"{folder}/sources/{index}/0", f"\0v1\n{first}")


def _source_topics(rebuild: Rebuild) -> list[str]:
    """Return the topics in the order of the checkpoint's source numbers, from the paths that the file source recorded."""
    folder = f"{rebuild.paths.checkpoint}/sources"
    topics = {}
    for index in sorted(name for name in small_files.list_names(folder) if name.isdigit()):
        entries = [name for name in small_files.list_names(f"{folder}/{index}") if not name.startswith(".")]
        text = "".join(small_files.read_text(f"{folder}/{index}/{name}") or "" for name in entries)
        topics[int(index)] = next(topic for topic in rebuild.query.sources if f"/rebuild/{topic}/" in text)
    return [topics[index] for index in sorted(topics)]


def _entry(folder: str, number: int) -> tuple[dict[str, Any], Sequence[str]]:
    text = small_files.read_text(checkpoint_log.offsets_entry(folder, number))
    if not text:
        raise HeadraceError(f"{checkpoint_log.offsets_entry(folder, number)} is missing. Start the rebuild again.")
    _, metadata, *lines = text.splitlines()
    return json.loads(metadata), lines


def _replace(path: str, text: str) -> None:
    """Replace one of Spark's files; remove Hadoop's checksum next to it (local disks), which would no longer match."""
    parent, _, name = path.rpartition("/")
    trees.remove_file(f"{parent}/.{name}.crc")
    small_files.write_text(path, text)


def _offsets(parts: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in parts.items()}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
