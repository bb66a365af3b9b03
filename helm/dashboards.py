"""Generate the Grafana dashboards of chart spark.

    python helm/dashboards.py        # writes helm/spark/files/dashboards/

`tests/charts/test_dashboards.py` compares the files with this, and every query with the metrics that are exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TimeZoneUtc, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).parent / "spark" / "files" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")


@dataclass(frozen=True)
class Plot:
    """One panel: its title, its query, the legend of a series, and Grafana's unit."""

    title: str
    query: str
    legend: str
    unit: str = "short"


QUERY, PIPELINE = "{{query}}", "{{pipeline}}"
OF_PIPELINE = 'query=~"($pipeline)[.].+"'
STREAMS = [
    Plot("Lag behind Kafka (offsets)", f"headrace_query_lag_offsets{{{OF_PIPELINE}}}", QUERY),
    Plot("Records read per second", f"rate(headrace_query_rows_in_total{{{OF_PIPELINE}}}[5m])", QUERY),
    Plot("Rows written per second", f"rate(headrace_query_rows_out_total{{{OF_PIPELINE}}}[5m])", QUERY),
    Plot(
        "Batch duration as a share of the trigger",
        f"headrace_query_batch_duration_seconds{{{OF_PIPELINE}}} / headrace_query_trigger_seconds{{{OF_PIPELINE}}}",
        QUERY,
        "percentunit",
    ),
    Plot("Age of the newest batch", f"headrace_query_batch_age_seconds{{{OF_PIPELINE}}}", QUERY, "s"),
    Plot("Time since last progress", f"headrace_query_still_seconds{{{OF_PIPELINE}}}", QUERY, "s"),
    Plot("Watermark behind now", f"time() - headrace_query_watermark_seconds{{{OF_PIPELINE}}}", QUERY, "s"),
    Plot("Rows in state", f"headrace_query_state_rows{{{OF_PIPELINE}}}", QUERY),
    Plot("Late groups in the newest batch", f"headrace_query_late_groups{{{OF_PIPELINE}}}", QUERY),
    Plot(
        "Offsets read minus offsets arrived, per second",
        f"headrace_query_taken_per_second{{{OF_PIPELINE}}} - headrace_query_arrived_per_second{{{OF_PIPELINE}}}",
        QUERY,
    ),
]
STORES = [
    Plot(
        "Kafka: partitions without enough replicas in sync",
        "headrace_kafka_under_replicated_partitions",
        "{{instance}}",
    ),
    Plot("Kafka: partitions below min.insync.replicas", "headrace_kafka_under_min_isr_partitions", "{{instance}}"),
    Plot("Kafka: partitions without a leader", "max(headrace_kafka_offline_partitions)", "partitions"),
    Plot("Kafka: brokers that are down", "max(headrace_kafka_fenced_brokers)", "brokers"),
    Plot("Kafka: records received per second", "rate(headrace_kafka_messages_in_total[5m])", "{{instance}}"),
    Plot(
        "Kafka: bytes per second",
        "rate(headrace_kafka_bytes_total[5m])",
        "{{instance}} {{direction}}",
        "Bps",
    ),
    Plot(
        "Kafka: slowest 1 % of requests",
        "headrace_kafka_request_seconds",
        "{{instance}} {{request}}",
        "s",
    ),
    Plot(
        "Kafka: size of topics",
        "sum by (instance, topic) (headrace_kafka_log_bytes)",
        "{{instance}} {{topic}}",
        "bytes",
    ),
    Plot("Cassandra: requests per second", "rate(headrace_cassandra_requests_total[5m])", "{{instance}} {{request}}"),
    Plot("Cassandra: latency", "headrace_cassandra_request_seconds", "{{instance}} {{request}} {{quantile}}", "s"),
    Plot(
        "Cassandra: failed requests per second",
        "rate(headrace_cassandra_request_errors_total[5m])",
        "{{instance}} {{request}} {{error}}",
    ),
    Plot(
        "Cassandra: dropped messages per second",
        "rate(headrace_cassandra_dropped_messages_total[5m])",
        "{{instance}} {{message}}",
    ),
    Plot("Cassandra: pending compactions", "headrace_cassandra_pending_compactions", "{{instance}}"),
    Plot("Cassandra: nodes as each node sees them", "headrace_cassandra_endpoints", "{{instance}} {{state}}"),
    Plot("Cassandra: size of tables on a node", "headrace_cassandra_load_bytes", "{{instance}}", "bytes"),
    Plot("Time until Kafka deletes unread records", "headrace_retention_left_seconds", PIPELINE, "s"),
    Plot(
        "Sinks whose newest check did not pass",
        'headrace_quality_status{status!~"PASSED|NOTHING"} == 1',
        "{{sink}} {{status}}",
    ),
    Plot("Time since the newest check", "headrace_quality_age_seconds", "{{sink}}", "s"),
    Plot("Differences in the newest reconciliation", "headrace_reconcile_differing", "{{pipeline}}.{{query}}"),
    Plot("Time since the newest reconciliation", "headrace_reconcile_age_seconds", PIPELINE, "s"),
    Plot("Free space", "headrace_volume_free_bytes / headrace_volume_size_bytes", "{{volume}}", "percentunit"),
    Plot(
        "Free space of volumes",
        "kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes",
        "{{namespace}}/{{persistentvolumeclaim}}",
        "percentunit",
    ),
    Plot("Days until certificates expire", "headrace_certificate_days_left", "{{system}}", "d"),
]
PLATFORM = [
    Plot("Servers that answer", "headrace_server_up", "{{system}} {{server}}"),
    Plot("Time since Airflow's heartbeats", "time() - headrace_airflow_heartbeat_seconds", "{{part}}", "s"),
    Plot("Time since a task failed", "time() - headrace_task_failed_seconds", "{{task}}", "s"),
    Plot(
        "Heap in use by Kafka and Cassandra",
        'jvm_memory_used_bytes{area="heap"} / jvm_memory_max_bytes{area="heap"}'
        " and on (instance) (headrace_kafka_active_controllers or headrace_kafka_partitions or headrace_cassandra_load_bytes)",
        "{{instance}}",
        "percentunit",
    ),
    Plot("Verdicts", "headrace_pipeline_verdict == 1", "{{pipeline}} {{verdict}}"),
    Plot("Desired state: running", "headrace_pipeline_wanted", PIPELINE),
    Plot("Running queries", "sum by (query) (headrace_query_active)", QUERY),
    Plot("Restarts left", "headrace_pipeline_restarts_left", PIPELINE),
    Plot("Time since the supervisor's last pass", "headrace_pipeline_supervised_age_seconds", PIPELINE, "s"),
    Plot("Checkpoint faults", "headrace_checkpoint_fault == 1", "{{pipeline}} {{runbook}}"),
    Plot("Parts readable by the exporter", "headrace_exporter_part_up", "{{part}}"),
]
DASHBOARDS = {"streams": STREAMS, "stores": STORES, "platform": PLATFORM}


def rendered(name: str) -> str:
    """Return a dashboard's JSON (deterministic)."""
    board = (
        dashboard.Dashboard(f"Headrace: {name}")
        .uid(f"headrace-{name}")
        .tags(["headrace"])
        .timezone(TimeZoneUtc)
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    if name == "streams":
        board = board.with_variable(
            dashboard.QueryVariable("pipeline")
            .label("Pipeline")
            .datasource(SOURCE)
            .query("label_values(headrace_pipeline_wanted, pipeline)")
            .multi(True)
            .include_all(True)
        )
    for panel in _panels(DASHBOARDS[name]):
        board = board.with_panel(panel)
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(board.build())), indent=1, sort_keys=True) + "\n"


def _panels(plots: Iterable[Plot]) -> Iterable[timeseries.Panel]:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs([])
    )
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    for number, plot in enumerate(plots, start=1):
        target = prometheus.Dataquery().expr(plot.query).legend_format(plot.legend).ref_id("A")
        panel = timeseries.Panel().id(number).title(plot.title).datasource(SOURCE).unit(plot.unit).span(12).height(8)
        yield panel.legend(legend).tooltip(tooltip).with_target(target)


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(rendered(name))


if __name__ == "__main__":
    main()
