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
