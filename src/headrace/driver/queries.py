"""From a pipeline to its running queries: read, decode, watermark, transform, and start on the current generation."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from headrace.access.bindings import KafkaBinding
from headrace.contract import fingerprint, names, state
from headrace.contract.exit_codes import Exit
from headrace.contract.model import CassandraSink, Pipeline, Query
from headrace.driver import (
    archive_table,
    cassandra_guard,
    compilation,
    counted,
    lookup_keys,
    open_transactions,
    refusals,
    source,
    spark_plan,
    writer,
)
from headrace.driver.consumer_groups import GroupCommitter
from headrace.driver.declared import require_declared, transformed
from headrace.driver.session import kafka_options
from headrace.errors import HeadraceError
from headrace.store import (
    archive_notes,
    contracts,
    file_sink,
    generation,
    integrity,
    lost_folders,
    quarantine,
    spark_conf,
    topic_identity,
    trees,
)
from headrace.store import paths as places
from headrace.store.spark_conf import ARCHIVE_TRIGGER

log = logging.getLogger(__name__)

_MILLISECOND = timedelta(milliseconds=1)
Transform = Callable[..., DataFrame]


@dataclass(frozen=True)
class Running:
    """A started query with its generation and its counters."""

    name: str
    query: StreamingQuery
    generation: generation.Generation
    trigger_ms: int
    counters: writer.Counters


@dataclass(frozen=True)
class DriverContext:
    """Objects shared by all queries of one driver."""

    spark: SparkSession
    pipeline: Pipeline
    transforms: Mapping[str, Transform]
    root: str
    kafka: KafkaBinding
    groups: GroupCommitter
    gate: writer.Gate


def load_module(path: Path) -> ModuleType:
    """Return the pipeline's transforms. Raises HeadraceError(REFUSED) if the file is missing or cannot be imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise HeadraceError(
            f"{path} is missing. Write the pipeline's transforms there, one function per query.", exit_code=Exit.REFUSED
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does on import, it would do at every restart
        raise HeadraceError(
            f"{path} cannot be imported ({type(error).__name__}: {error}). Correct it.", exit_code=Exit.REFUSED
        ) from error
    return module


def transforms_of(pipeline: Pipeline, module: ModuleType) -> dict[str, Transform]:
    """Return the transform of each declared query. Raises HeadraceError(REFUSED), naming a missing function."""
    missing = [name for name in pipeline.queries if not callable(getattr(module, name, None))]
    if missing:
        raise HeadraceError(
            f"spark_jobs/{pipeline.name}.py lacks {', '.join(missing)}. Write one function for each query of "
            f"pipelines/{pipeline.name}.yaml, with the query's name.",
            exit_code=Exit.REFUSED,
        )
    return {name: _by_topic(pipeline, getattr(module, name)) for name in pipeline.queries}


def _by_topic(pipeline: Pipeline, transform: Transform) -> Transform:
    """Return a transform whose sources are named by topic, as everywhere except in the pipeline's file (ADR 42)."""
    if all(pipeline.source_name(topic) == topic for topic in pipeline.sources):
        return transform

    def renamed(*args: DataFrame, **frames: DataFrame) -> DataFrame:
        return transform(*args, **{pipeline.source_name(name): frame for name, frame in frames.items()})

    return renamed


def start_all(driver: DriverContext, new_generations: frozenset[str] = frozenset(), request: str = "") -> list[Running]:
    """Check every query of the pipeline, then start them all. If one check refuses, none is started.

    `new_generations` names queries that begin a new generation; `request` identifies the start that asks for it.
    """
    asked = dict.fromkeys(new_generations, request)
    lost_folders.refuse(driver.root, driver.pipeline, asked)
    ids = driver.groups.topic_ids(driver.pipeline.sources)
    fresh = {q for q in new_generations if not generation.begun_by(driver.root, driver.pipeline.name, q, request)}
    for topic in driver.pipeline.sources:
        query = names.archive_query(topic)
        _require_archive_of(driver, topic, ids, new=query in fresh)
    begun = [
        (plan.name, plan.frame, _generation(driver, plan, asked.get(plan.name)))
        for plan in _plans(driver, ids, frozenset(fresh))
    ]
    for name, _, chosen in begun:
        topic_identity.require_same(
            chosen.paths(driver.root), _topics_of(driver.pipeline, name, ids), driver.pipeline.name
        )
    open_transactions.require_ended(driver.groups, [chosen.paths(driver.root).checkpoint for _, _, chosen in begun])
    return [_start(driver, place, name, frame, chosen) for place, (name, frame, chosen) in enumerate(begun)]


def _topics_of(pipeline: Pipeline, name: str, ids: topic_identity.TopicIds) -> topic_identity.TopicIds:
    """Return the ids of the topics that a query reads."""
    return {topic: ids[topic] for topic in names.topics_of(pipeline, name) if topic in ids}


def unsafe_changes(driver: DriverContext) -> dict[str, list[str]]:
    """Return for each query what its checkpoint cannot take of the current plan; nothing is started or written."""
    changes_by_query = {}
    for plan in _plans(driver, {}):
        now = generation.current(driver.root, driver.pipeline.name, plan.name)
        changes = fingerprint.differences(now.fingerprint, plan.marks) if now and now.fingerprint else []
        if changes:
            changes_by_query[plan.name] = changes
    return changes_by_query


@dataclass(frozen=True)
class _Plan:
    """A query that is to run: its frame, and the marks of its fingerprint."""

    name: str
    frame: DataFrame
    marks: dict[str, Any]


def _plans(driver: DriverContext, ids: topic_identity.TopicIds, new: frozenset[str] = frozenset()) -> list[_Plan]:
    """Return the plan of every query. Raises HeadraceError(REFUSED) if a plan is not allowed.

    `new` are the queries that begin a new generation, `ids` the ids of their topics.
    """
    pipeline = driver.pipeline
    plans = []
    for name, query in pipeline.queries.items():
        if query.dimensions:
            as_batch = lookup_keys.guarded(build(driver, name, query, streaming=False), pipeline, query)
            spark_plan.require_direct_join(as_batch, pipeline.name, name)
        now = None if name in new else generation.current(driver.root, pipeline.name, name)
        passed = quarantine.passed_by(driver.root, now or generation.next_of(driver.root, pipeline.name, name), ids)
        frame = build(driver, name, query, streaming=True, starting_ms=now.starting_ms if now else None, passed=passed)
        require_declared(frame, pipeline.name, name, query)
        plan = _Plan(name, frame, fingerprint.declared(pipeline, name) | plan_marks(frame))
        plans.append(_without_unused(plan, query, now) if now else plan)
    for topic in pipeline.sources:
        archive_table.create(driver.spark, pipeline.name, topic)
        begins = _starting_ms(driver, names.archive_query(topic), new)
        frame = archive_frame(driver, topic, begins)
        plans.append(_Plan(names.archive_query(topic), frame, dict(fingerprint.archive_declared(topic))))
    return plans


def _without_unused(plan: _Plan, query: Query, now: generation.Generation) -> _Plan:
    """Return a plan without the marks of source columns that were added since `now` began and that the query does not read."""
    added = fingerprint.added_columns(now.fingerprint, plan.marks)
    if not added:
        return plan
    # A stateless query writes only its declared columns, whatever else the transform returns.
    frame = plan.frame
    if refusals.of_one_record(query):
        frame = frame.select(*(f"`{name}`" for name in (*query.columns, *([query.matched] if query.matched else ()))))
    read = spark_plan.columns_read(frame, set().union(*added.values()))
    unused = {topic: columns - read for topic, columns in added.items()}
    return replace(plan, marks=fingerprint.without(plan.marks, unused))


def archive_frame(driver: DriverContext, topic: str, starting_ms: int | None = None) -> DataFrame:
    """Return the frame of a topic's archive query: every record unchanged, with the reason if it is refused."""
    kafka = kafka_options(driver.kafka)
    waits = spark_conf.archive_options(driver.pipeline, str(driver.spark.conf.get(spark_conf.ARCHIVE_DELAY)))
    raw = source.stream(driver.spark, driver.pipeline, topic, kafka, headers=True, starting_ms=starting_ms, more=waits)
    return source.judged(raw, driver.pipeline.sources[topic])


def _starting_ms(driver: DriverContext, name: str, new: frozenset[str]) -> int | None:
    """Return the broker time at which an operator's reset begins the query; None: the beginning of the topic."""
    now = generation.current(driver.root, driver.pipeline.name, name)
    return now.starting_ms if now and name not in new else None


def plan_marks(frame: DataFrame) -> dict[str, list[str] | dict[str, str]]:
    """Return the plan's part of a fingerprint."""
    return {"plan": spark_plan.stateful_nodes(frame), "state_inputs": spark_plan.state_inputs(frame)}


def build(
    driver: DriverContext,
    name: str,
    query: Query,
    *,
    streaming: bool,
    starting_ms: int | None = None,
    passed: quarantine.Entries = (),
) -> DataFrame:
    """Return the query's frame: over the streams, or over the topics' current content as a batch (for its plan).

    The query passes over the records of `passed`.
    """
    pipeline, kafka = driver.pipeline, kafka_options(driver.kafka)
    frames: dict[str, DataFrame] = {}
    for topic in query.sources:
        contract = pipeline.sources[topic]
        if streaming:
            waits = spark_conf.query_options(pipeline, query)
            raw = source.stream(driver.spark, pipeline, topic, kafka, starting_ms=starting_ms, more=waits)
        else:
            raw = source.as_batch(driver.spark, pipeline, topic, kafka)
        typed = source.accepted(raw, contract, source.added_columns(query, contract), passed)
        marked = source.watermarked(typed, topic, query, contract) if streaming else typed
        frames[topic] = marked.alias(spark_plan.SOURCE)
    frames |= dimension_frames(driver.spark, pipeline, query)
    return transformed(driver.transforms[name], frames, names.query_name(pipeline.name, name))


def dimension_frames(spark: SparkSession, pipeline: Pipeline, query: Query) -> dict[str, DataFrame]:
    """Return the tables that a query joins with, by the name of their parameter."""
    tables = {name: pipeline.dimensions[name] for name in query.dimensions}
    return {name: spark.table(f"{names.CASSANDRA_CATALOG}.{t.keyspace}.{t.table}") for name, t in tables.items()}


def _generation(driver: DriverContext, plan: _Plan, request: str | None) -> generation.Generation:
    pipeline = driver.pipeline.name
    if request is None:
        chosen = generation.resume_or_begin(driver.root, pipeline, plan.name, plan.marks)
    else:
        chosen = generation.begin(driver.root, pipeline, plan.name, plan.marks, request)
    # Spark 3.5 continues in cases where it must not: without metadata, or behind its own sinks.
    stateful = plan.marks.get("state_partitions") is not None
    files = file_sink.is_sink_of(driver.pipeline.queries.get(plan.name))
    integrity.require_sound(driver.root, chosen, stateful=stateful, files=files)
    return chosen


def _require_archive_of(driver: DriverContext, topic: str, ids: topic_identity.TopicIds, *, new: bool) -> None:
    """Raise HeadraceError(REFUSED) if the archive belongs to a deleted topic of the same name.

    The archive takes offsets below its note for replays, so the new topic's first records would be left out. If the archive
    query begins a new generation (`new`), the old table is set aside and replaced by an empty one.
    """
    pipeline, query = driver.pipeline.name, names.archive_query(topic)
    noted = archive_notes.newest(driver.root, pipeline, query)
    known = {topic: noted.topic_id} if noted and noted.topic_id else {}
    if new and topic_identity.replaced(known, ids):
        table = f"{places.lake(driver.root)}/{pipeline}/{query}"
        aside = f"{places.set_aside(driver.root)}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}/{pipeline}/{query}"
        log.warning(
            "%s archives the previous topic %s, which was deleted and recreated: moving it to %s", table, topic, aside
        )
        trees.move(table, aside)
        return
    topic_identity.refuse(known, ids, pipeline)


def stagger(trigger: timedelta, place: int) -> timedelta:
    """Return the trigger interval of the query at position `place` (0, 1, ...): the declared one, or up to a fifth more.

    Spark fires at multiples of the interval (ProcessingTimeExecutor), so queries with equal intervals would all begin a batch
    at the same instant and compete for the same cores. Slightly different intervals drift apart.
    """
    return trigger * (1 + 0.02 * (place % 11))


def _link(driver: DriverContext, name: str, query: Query, counters: writer.Counters) -> cassandra_guard.Link | None:
    """Return the query's view of Cassandra if its batches need it; its counters show when it waits."""
    if query.dimensions or any(isinstance(sink, CassandraSink) for sink in query.sinks):
        full_name, connector = names.query_name(driver.pipeline.name, name), cassandra_guard.connector_of(driver.spark)
        return cassandra_guard.Link(
            full_name,
            connect=lambda: cassandra_guard.control_connection(connector),
            renew=lambda session: cassandra_guard.close_session(driver.spark, connector, session),
            pause=driver.gate.pause,
            report=lambda what: setattr(counters, "waits", what),
        )
    return None


def use_state_store(spark: SparkSession, query: Query | None) -> None:
    """Set the state store of the query that starts next; an archive query (None) has no state."""
    for key, value in (state.conf(query) if query else {}).items():
        spark.conf.set(key, value)


def _start(driver: DriverContext, place: int, name: str, frame: DataFrame, chosen: generation.Generation) -> Running:
    pipeline, kafka = driver.pipeline, kafka_options(driver.kafka)
    paths, counters = chosen.paths(driver.root), writer.Counters()
    topics, stateless = topic_identity.read(paths), not spark_plan.keeps_state(frame)
    declared = pipeline.queries.get(name)
    if declared:
        records = partial(source.reread, driver.spark, pipeline, declared.sources[0], kafka)
        letters = writer.letters_write(declared, kafka, records)
        write = writer.declared_write(pipeline, name, declared, paths, kafka, letters)
        frame = refusals.judged(lookup_keys.guarded(frame, pipeline, declared), pipeline, declared)
        mode, trigger = declared.mode, declared.trigger
        entries = quarantine.passed_by(driver.root, chosen)
        again = partial(source.between, driver.spark, pipeline, kafka)
        passed = writer.passed_write(entries, kafka, again) if entries else None
        cassandra = _link(driver, name, declared, counters)
        often, refused = writer.reads_often(declared), refusals.REFUSED
    else:
        topic = names.archived_topic(pipeline, name)
        write = writer.archive_write(pipeline, topic, driver.root, kafka, topics.get(topic, ""), counters)
        letters, passed, cassandra, often, refused = None, None, None, True, "reason IS NOT NULL"
        mode, trigger = "append", ARCHIVE_TRIGGER
    batches = writer.Writer(
        driver.spark,
        chosen,
        paths,
        write,
        driver.groups,
        driver.gate,
        counters,
        cassandra,
        often,
        refused,
        topics=topics,
        letters=letters,
        passed=passed,
        stateless=stateless,
        contract=contracts.note(driver.root, pipeline, name) if declared else "",
        complete=mode == "complete",
    )
    # Each query has its own pool: under FAIR scheduling a large batch of one does not starve the others.
    driver.spark.sparkContext.setLocalProperty("spark.scheduler.pool", name)
    use_state_store(driver.spark, declared)
    compilation.use(driver.spark, compilation.INTERPRETED)
    query = (
        (frame if often else counted.observed(frame))
        .writeStream.queryName(batches.query)
        .outputMode(mode)
        .trigger(processingTime=f"{stagger(trigger, place) // _MILLISECOND} milliseconds")
        .option("checkpointLocation", paths.checkpoint)
        .foreachBatch(batches)
        .start()
    )
    return Running(batches.query, query, chosen, trigger // _MILLISECOND, counters)
