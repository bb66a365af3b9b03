"""Runs for several pipelines: one that cannot be planned, or that dies, keeps no other from its run and its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.contract.job_files import ViewsSpec
from headrace.errors import HeadraceError
from headrace.operations.batch import job_runs, reconcile, spark_runs, view_plans
from headrace.operations.batch.spark_runs import Submission
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import desired_state
from headrace.store import paths, small_files
from headrace.store.job_reports import ViewsReport


@pytest.fixture
def deployment(project: Path, tmp_path: Path) -> Deployment:
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    return Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "admin", drivers=drivers)


def test_a_pipeline_that_cannot_be_ordered_keeps_no_other_from_its_views_and_its_reconciliation(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: the fault belongs to its own task; what was computed of the others is reported, and the fault named at the end."""

    def planned(loaded: Deployment, name: str, *, run: str, **_: object) -> job_runs.BatchRun:
        loaded.pipeline(name)
        if name == "pos_sales":
            raise HeadraceError("Kafka has no topic pos: run `headrace provision`.")
        return job_runs.prepare(deployment.root, "views", name, ViewsSpec(), run)

    monkeypatch.setattr(view_plans, "plan", planned)
    monkeypatch.setattr(reconcile, "plan", planned)
    monkeypatch.setattr(reconcile, "has_run", lambda *_: True)
    chosen = ["pos_sales", "web_events", "ad_attribution", "nobody"]
    runs = spark_runs.plan_views(deployment, chosen, "night")
    assert [submission.name for submission in runs] == ["views-pos_sales", "views-ad_attribution", "views-nobody"]
    assert runs[0].fault == "Kafka has no topic pos: run `headrace provision`."
    assert "'nobody'" in runs[2].fault
    reconciled = spark_runs.plan_reconcile(deployment, ["pos_sales", "ad_attribution"], "night")
    assert [bool(submission.fault) for submission in reconciled] == [True, False]
    _leave_report(
        deployment, "ad_attribution", "night-ad_attribution", {"pipeline": "ad_attribution", "rows": {"attributed": 1}}
    )
    reports, faults = spark_runs.reports(deployment, runs, ViewsReport)
    assert reports == [ViewsReport(pipeline="ad_attribution", rows={"attributed": 1})]
    assert faults[0].startswith("views-pos_sales did not run to its end: Kafka has no topic pos")
    with pytest.raises(HeadraceError, match=r"views-pos_sales did not run to its end.*views-nobody did not run"):
        spark_runs.judge_views(deployment, runs)
    assert spark_runs.judge_views(deployment, runs[1:2]) == ["views-ad_attribution"]


@pytest.mark.parametrize(("want", "fails"), [("RUNNING", True), ("STOPPED", False)])
def test_views_that_lack_days_because_the_archive_is_behind_fail_while_the_stream_should_run(
    deployment: Deployment, want: desired_state.Want, fails: bool
) -> None:
    desired_state.write(deployment.root, "pos_sales", want, by="ann", reason="test")
    lag = {"topic": "pos", "partition": 1, "reached": 7, "end": 9}
    _leave_report(deployment, "pos_sales", "night", {"pipeline": "pos_sales", "behind": [lag]})
    runs = [Submission("views-pos_sales", application_args=("views", "pos_sales", "night"))]
    if fails:
        with pytest.raises(
            HeadraceError, match=r"the archive of pos/1 is at 7 of 9: see headrace stream status pos_sales"
        ):
            spark_runs.judge_views(deployment, runs)
    else:
        assert spark_runs.judge_views(deployment, runs) == ["views-pos_sales"]


def test_a_reconciliation_that_left_no_report_hides_no_difference_of_another(deployment: Deployment) -> None:
    runs = [
        Submission(f"reconcile-{name}", application_args=("reconcile", name, "night"))
        for name in ("web_events", "pos_sales")
    ]
    differs = {"query": "tumbling", "differing": 3, "differences": [], "compared": 5, "note": "", "status": "DIFFERS"}
    _leave_report(
        deployment,
        "pos_sales",
        "night",
        {"run": "night", "pipeline": "pos_sales", "accounts": [differs], "differing": 3},
    )
    with pytest.raises(HeadraceError, match=r"reconcile-web_events did not run to its end.* pos_sales .*tumbling: 3"):
        spark_runs.judge_reconcile(deployment, runs)


def _leave_report(deployment: Deployment, pipeline: str, run: str, report: dict[str, object]) -> None:
    small_files.write_json(f"{paths.batch_run(deployment.root, pipeline, run)}/report.json", report)
