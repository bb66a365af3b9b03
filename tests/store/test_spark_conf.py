from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from headrace.access.bindings import KafkaBinding
from headrace.contract.model import CassandraSink, KafkaSink, Pipeline
from headrace.contract.names import group_prefix
from headrace.store import spark_conf


def _cluster(pipeline: Pipeline, release: str = "") -> dict[str, str]:
    start = spark_conf.ClusterStart(
        namespace="spark",
        image="headrace:1",
        warehouse="s3a://lake/lake",
        driver_template="/etc/headrace/driver.yaml",
        executor_template="/etc/headrace/executor.yaml",
        life="1f",
        settings="5e",
        release=release,
    )
    return spark_conf.cluster_conf(pipeline, start)


def test_settings_that_a_checkpoint_or_a_result_rests_on_are_pinned(good: Pipeline) -> None:
    conf = spark_conf.spark_conf(good, "/tmp/lake")
    assert conf["spark.sql.shuffle.partitions"] == str(good.driver.state_partitions) == "2"
    assert conf["spark.sql.session.timeZone"] == "UTC"
    assert conf["spark.sql.ansi.enabled"] == "false"
    assert conf["spark.sql.legacy.timeParserPolicy"] == "CORRECTED"
    assert conf["spark.sql.adaptive.enabled"] == "false"
    assert conf["spark.sql.streaming.multipleWatermarkPolicy"] == "min"
    assert conf["spark.sql.streaming.noDataMicroBatches.enabled"] == "true"
    assert conf["spark.sql.streaming.minBatchesToRetain"] == "100"


def test_the_direct_join_is_forced_and_the_lake_never_answers_from_a_cache(good: Pipeline) -> None:
    conf = spark_conf.spark_conf(good, "/data/lake")
    assert conf["spark.sql.catalog.lh.directJoinSetting"] == "on"
    assert conf["spark.sql.catalog.lake.warehouse"] == "/data/lake"
    assert conf["spark.sql.catalog.lake.cache-enabled"] == "false"
    assert "CassandraSparkExtensions" in conf["spark.sql.extensions"]


def test_whatever_reads_a_topic_reads_committed_records_only(good: Pipeline, project: Path) -> None:
    assert spark_conf.source_options(good, "orders")["kafka.isolation.level"] == "read_committed"
    binding = KafkaBinding("127.0.0.1:1", "PLAINTEXT", "", "", "")
    reader = binding.reader_config("g")
    assert (reader["isolation.level"], reader["enable.auto.commit"], reader["group.id"]) == (
        "read_committed",
        "false",
        "g",
    )
    code = {path.name: path.read_text() for path in (project / "src" / "headrace").rglob("*.py")}
    assert {name for name, text in code.items() if '"group.id"' in text} == {"bindings.py"}, "else: reader_config"
    spark = {name for name, text in code.items() if re.search(r"\.read(Stream)?\.format\(\"kafka\"\)", text)}
    assert spark == {"source.py", "sink_frames.py", "rehearsal.py"}
    assert "kafka.isolation.level" in code["sink_frames.py"]


def test_reads_that_decide_see_what_was_written_at_local_quorum(good: Pipeline, project: Path) -> None:
    """Else, on three nodes, a replica that lags makes a known user a dead letter (connector default: LOCAL_ONE)."""
    level = "spark.cassandra.input.consistency.level"
    assert spark_conf.spark_conf(good, "/data/lake")[level] == "LOCAL_QUORUM"
    assert _cluster(good)[level] == "LOCAL_QUORUM"
    for path in (project / "src" / "headrace").rglob("*.py"):
        assert path.name == "spark_conf.py" or level not in path.read_text(), f"{path}: one place says it"


def test_a_long_driver_keeps_bounded_histories(good: Pipeline) -> None:
    conf = spark_conf.spark_conf(good, "/tmp/lake")
    retained = {key: int(value) for key, value in conf.items() if "etained" in key or "Recent" in key}
    assert len(retained) >= 8
    assert max(retained.values()) <= 500


def test_the_settings_name_no_endpoint_and_no_secret(good: Pipeline) -> None:
    text = "\n".join(f"{key}={value}" for key, value in _cluster(good).items())
    assert not re.search(r"(?i)password=|jaas\.config|auth\.username|bootstrap\.servers|connection\.host", text)
    for options in (spark_conf.source_options(good, "sales"), spark_conf.sink_options()):
        assert not any(re.search("(?i)sasl|ssl|servers", key) for key in options)


def test_whatever_holds_a_secret_is_redacted(good: Pipeline) -> None:
    conf = spark_conf.spark_conf(good, "/tmp/lake")
    keys = re.compile(conf["spark.redaction.regex"])
    for key in (
        "kafka.sasl.jaas.config", "spark.cassandra.auth.password", "spark.cassandra.auth.username",
        "fs.s3a.secret.key", "fs.s3a.access.key", "ssl.keystore.password", "some.token", "spark.x.credentials",
    ):  # fmt: skip
        assert keys.search(key), key
    for key in ("spark.sql.shuffle.partitions", "spark.master", "kafka.bootstrap.servers", "subscribe"):
        assert not keys.search(key), key
    options = re.compile(conf["spark.sql.redaction.options.regex"])
    assert options.search("kafka.sasl.jaas.config")
    assert options.search("url")
    text = re.compile(conf["spark.sql.redaction.string.regex"])
    login = 'org.apache.kafka.X required username="u" password="hush hush";'
    assert "hush" not in text.sub("*", login)


def test_the_settings_of_a_job_are_not_logged_in_full(good: Pipeline) -> None:
    assert spark_conf.spark_conf(good, "/tmp/lake")["spark.scheduler.listenerbus.logSlowEvent"] == "false"


def test_retention_loss_is_loud_and_every_query_reads_the_complete_topic(good: Pipeline) -> None:
    options = spark_conf.source_options(good, "sales")
    assert options["failOnDataLoss"] == "true"
    assert options["startingOffsets"] == "earliest"
    assert "includeHeaders" not in options  # the archive alone asks for them
    assert options["maxOffsetsPerTrigger"] == str(good.driver.max_offsets_per_trigger)
    assert options["kafka.fetch.max.wait.ms"] == "20"
    assert "kafka.group.id" not in options


def test_the_readers_groups_are_those_that_the_pipeline_may_use(good: Pipeline) -> None:
    assert spark_conf.source_options(good, "sales")["groupIdPrefix"].startswith(group_prefix("good"))


def test_an_archive_waits_for_more_records_but_for_no_more_than_a_batch_may_have(good: Pipeline) -> None:
    assert spark_conf.archive_options(good, "30s") == {"minOffsetsPerTrigger": "5000", "maxTriggerDelay": "30s"}
    bounded = good.model_copy(update={"driver": good.driver.model_copy(update={"max_offsets_per_trigger": 7})})
    assert spark_conf.archive_options(bounded, "30s")["minOffsetsPerTrigger"] == "7"


def test_few_records_wait_for_more_only_as_long_as_the_freshness_of_their_query_allows(good: Pipeline) -> None:
    query = next(iter(good.queries.values())).model_copy(update={"trigger": timedelta(seconds=2)})
    assert spark_conf.query_options(good, query) == {}
    fresh = query.model_copy(update={"freshness": timedelta(seconds=8)})
    assert spark_conf.query_options(good, fresh) == {"minOffsetsPerTrigger": "2000", "maxTriggerDelay": "3000ms"}
    bounded = good.model_copy(update={"driver": good.driver.model_copy(update={"max_offsets_per_trigger": 7})})
    assert spark_conf.query_options(bounded, fresh)["minOffsetsPerTrigger"] == "7"


def test_a_written_record_is_acknowledged_by_all_and_may_hold_a_complete_source_record() -> None:
    options = spark_conf.sink_options()
    assert options["kafka.acks"] == "all"
    assert options["kafka.enable.idempotence"] == "true"
    assert int(options["kafka.max.request.size"]) > 1_048_588


def test_a_cassandra_sink_writes_no_tombstones_and_states_its_consistency_and_ttl(good: Pipeline) -> None:
    (windows,) = good.queries["windows"].sinks
    assert isinstance(windows, CassandraSink)
    assert spark_conf.cassandra_sink_options(windows) == {
        "spark.cassandra.output.ignoreNulls": "true",
        "spark.cassandra.output.consistency.level": "LOCAL_QUORUM",
        "spark.cassandra.output.batch.size.bytes": "16384",
        "spark.cassandra.output.concurrent.writes": "32",
        "ttl": "2592000",
    }
    (totals,) = good.queries["totals"].sinks
    assert isinstance(totals, CassandraSink)
    assert "ttl" not in spark_conf.cassandra_sink_options(totals)
    assert not any(isinstance(sink, KafkaSink) for sink in (windows, totals))


def test_a_cluster_driver_has_a_fixed_pod_name_and_the_names_that_follow_from_the_pipeline(
    pipelines: dict[str, Pipeline],
) -> None:
    conf = _cluster(pipelines["pos_sales"])
    assert conf["spark.kubernetes.driver.pod.name"] == "pos-sales-driver"
    assert conf["spark.kubernetes.driver.label.headrace/pipeline"] == "pos_sales"
    assert conf["spark.kubernetes.executor.label.headrace/pipeline"] == "pos_sales"
    assert conf["spark.kubernetes.driver.secrets.kafka-pos-sales"] == "/bindings/kafka"
    assert conf["spark.kubernetes.executor.secrets.cassandra-pos-sales"] == "/bindings/cassandra"
    assert conf["spark.kubernetes.submission.waitAppCompletion"] == "false"


def test_a_release_is_a_legal_label_and_in_full_an_annotation(good: Pipeline) -> None:
    image = "registry.example.org:5000/" + "team/" * 20 + "headrace:1.2.3"
    conf = _cluster(good, image)
    assert re.fullmatch(
        r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", conf["spark.kubernetes.driver.label.headrace/release"]
    )
    assert conf["spark.kubernetes.driver.annotation.headrace/release"] == image
    assert "spark.kubernetes.driver.label.headrace/release" not in _cluster(good)


def test_a_local_driver_listens_on_loopback_only(good: Pipeline) -> None:
    conf = spark_conf.local_conf(good, 14040)
    assert conf["spark.master"] == "local[2]"
    assert {conf["spark.driver.host"], conf["spark.driver.bindAddress"]} == {"127.0.0.1"}
    assert spark_conf.local_environment()["SPARK_LOCAL_IP"] == "127.0.0.1"
