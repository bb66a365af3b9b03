"""Names derived from a pipeline: one function for each. No other code spells such a name (a test greps for it)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from headrace.contract.model import CassandraSink, Pipeline

ARCHIVE_PREFIX = "archive_"
LAKE_CATALOG = "lake"
CASSANDRA_CATALOG = "lh"
QUALITY_KEYSPACE = "headrace_quality"
QUALITY_RESULTS, QUARANTINE = "results", "quarantine"

# Kubernetes. Labels identify what runs; both the charts and the launcher use these names.
PIPELINE_LABEL = "headrace/pipeline"
VERSION_LABEL = "headrace/version"
LIFE_LABEL = "headrace/life"
SETTINGS_LABEL = "headrace/settings"
RELEASE_LABEL = "headrace/release"
DRIVER_ACCOUNT = "spark-driver"
EXECUTOR_ACCOUNT = "spark-executor"
BINDING_MOUNT = "/bindings"  # the binding root in every pod that has one
_PRODUCER = "producer-"


def query_name(pipeline: str, query: str) -> str:
    """Return `<pipeline>.<query>`, the name of a query in Spark, metrics, ledger and logs."""
    return f"{pipeline}.{query}"


def group_prefix(pipeline: str) -> str:
    """Return the prefix of all Kafka groups of a pipeline. It ends with a dot, so `pos` never covers `pos_sales`."""
    return f"headrace.{query_name(pipeline, '')}"


def consumer_group(pipeline: str, query: str) -> str:
    """Return the Kafka consumer group that exposes a query's progress to tools. It is never read back (ADR 0005)."""
    return f"{group_prefix(pipeline)}{query}"


def dead_letter_topic(topic: str) -> str:
    """Return the topic that holds the records of `topic` that the contract refused."""
    return f"{topic}_dead_letters"


def archive_query(topic: str) -> str:
    """Return the name of the query that archives `topic`, restricted to the characters of a name.

    `rules_topics` ensures that the result is unique among the topics of one pipeline.
    """
    return f"{ARCHIVE_PREFIX}{re.sub('[^a-z0-9_]', '_', topic.lower())}"


def archived_topic(pipeline: Pipeline, query: str) -> str:
    """Return the topic that an archive query archives. Raises KeyError for any other query."""
    return {archive_query(topic): topic for topic in pipeline.sources}[query]


def archive_table(pipeline: str, topic: str) -> str:
    """Return the Iceberg table, with its catalog, that holds every record of `topic`."""
    return lake_table(pipeline, archive_query(topic))


def lake_table(pipeline: str, name: str) -> str:
    """Return a pipeline's Iceberg table, with its catalog, from its short name."""
    return f"{LAKE_CATALOG}.{pipeline}.{name}"


def topics_of(pipeline: Pipeline, query: str) -> list[str]:
    """Return the topics that a query reads, declared or archive."""
    declared = pipeline.queries.get(query)
    return list(declared.sources) if declared else [t for t in pipeline.sources if archive_query(t) == query]


def query_names(pipeline: Pipeline) -> list[str]:
    """Return the short names of all queries of a pipeline: the declared ones, then one archive query per source."""
    return [*pipeline.queries, *(archive_query(topic) for topic in pipeline.sources)]


def cassandra_table(pipeline: str, query: str, sink: CassandraSink) -> tuple[str, str]:
    """Return (keyspace, table) that a Cassandra sink writes."""
    return sink.keyspace or pipeline, sink.table or query


def principal(pipeline: str) -> str:
    """Return the Kafka user and Cassandra role of a pipeline's driver."""
    return pipeline


def producer(name: str) -> str:
    """Return the Kafka user of a declared producer. Pipeline names have no dash, so it never equals a pipeline's user."""
    return f"{_PRODUCER}{name}"


def is_producer(user: str) -> bool:
    """Return whether a Kafka user belongs to a declared producer."""
    return user.startswith(_PRODUCER)


def producer_secret(name: str) -> str:
    """Return the name of the Secret with a producer's binding, in the namespace where the producer runs."""
    return f"kafka-{producer(name)}"


def kubernetes_name(pipeline: str) -> str:
    """Return the pipeline's name as a valid Kubernetes name (RFC 1123 label), for pods and Secrets."""
    return pipeline.replace("_", "-")


def driver_pod(pipeline: str) -> str:
    """Return the fixed name of the driver pod; the API refuses a second one (AlreadyExists)."""
    return f"{kubernetes_name(pipeline)}-driver"


def binding_secret(system: str, pipeline: str) -> str:
    """Return the name of the Secret with a pipeline's binding to one system (`kafka`, `cassandra`): `kafka-pos-sales`."""
    return f"{system}-{kubernetes_name(pipeline)}"


def label_value(text: str) -> str:
    """Return `text` as a valid label value: its last 63 characters, with all except letters, digits and `-_.` as `_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[-63:].strip("._-")


def batch_view_table(pipeline: str, query: str) -> str:
    """Return the Iceberg table, with its catalog, that holds a query's rows as the batch layer computes them, by day."""
    return f"{LAKE_CATALOG}.{pipeline}.batch_{query}"


def reconcile_table(pipeline: str, kind: str) -> str:
    """Return the Iceberg table of reconciliation results: `runs` (one row per query and run) or `differences`."""
    return f"{LAKE_CATALOG}.{pipeline}.reconcile_{kind}"


def sink_name(kind: str, *place: str) -> str:
    """Return the name that the suite, results, quarantine and asset of a sink use.

    kafka.<topic>, cassandra.<keyspace>.<table>, files.<pipeline>.<query>, iceberg.<pipeline>.<archive query>.
    """
    return ".".join((kind, *place))


def stage_name(pipeline: str, dimension: str) -> str:
    """Return the name of a dimension's stage: the rows that a refresh has read but not yet written."""
    return sink_name("stage", pipeline, dimension)


def refresh_names(refreshed: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return (pipeline, dimension) -> name of its refresh, for all refreshed dimensions of a project.

    The name is the dimension's, prefixed with the pipeline if two pipelines refresh a dimension of that name.
    """
    pairs = list(refreshed)
    times = Counter(dimension for _, dimension in pairs)
    return {pair: pair[1] if times[pair[1]] == 1 else "_".join(pair) for pair in pairs}


def refresh_dag(name: str) -> str:
    """Return the id of the DAG of a refresh (`refresh_names`)."""
    return f"{name}_refresh"
