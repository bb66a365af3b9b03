"""Start, stop, pause, resume and restart streams. Each run records the desired state next to the checkpoints and applies it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from headrace.orchestration import dag_support

PIPELINES = dag_support.pipeline_names(__file__)
TAGS = ("speed", "spark", "writes")


@task(map_index_template="{{ pipeline }}")
def start(
    pipeline: str, params: dict[str, Any] | None = None, dag_run: object = None, run_id: str | None = None
) -> dict[str, Any]:
    """Start or adopt the driver, and wait until its queries run. A paused pipeline is skipped."""
    from headrace.operations import deployment
    from headrace.operations.drivers import control, generations
    from headrace.orchestration import tasks

    form, loaded = params or {}, deployment.load()
    launcher, declared, request = loaded.launcher(), loaded.pipeline(pipeline), dag_support.request_of(run_id, pipeline)
    queries = generations.named(declared, form.get("new_generations", ()))
    control.require_queries([loaded.pipeline(name) for name in form["pipelines"]], queries)
    generations.prepare(launcher, loaded.bindings, declared, queries, form.get("rows", ""), request)
    try:
        return tasks.start(
            launcher,
            pipeline,
            by=dag_support.who(dag_run),
            reason=form["reason"],
            new_generations=queries,
            request=request,
        )
    except control.PausedError as paused:
        raise AirflowSkipException(str(paused)) from paused


@task(map_index_template="{{ pipeline }}")
def stop(pipeline: str, params: dict[str, Any] | None = None, dag_run: object = None) -> dict[str, Any]:
    """Stop the driver. A running batch may finish."""
    from headrace.operations import deployment
    from headrace.orchestration import tasks

    launcher = deployment.load().launcher()
    return tasks.stop(launcher, pipeline, by=dag_support.who(dag_run), reason=(params or {})["reason"])


@task(map_index_template="{{ pipeline }}")
def pause(pipeline: str, params: dict[str, Any] | None = None, dag_run: object = None) -> dict[str, Any]:
    """Stop the driver until the pipeline is resumed. The reason is shown."""
    from headrace.operations import deployment
    from headrace.orchestration import tasks

    launcher = deployment.load().launcher()
    return tasks.pause(launcher, pipeline, by=dag_support.who(dag_run), reason=(params or {})["reason"])


@task(map_index_template="{{ pipeline }}")
def resume(pipeline: str, dag_run: object = None) -> dict[str, Any]:
    """Start a paused pipeline again and wait until its queries run."""
    from headrace.operations import deployment
    from headrace.orchestration import tasks

    return tasks.resume(deployment.load().launcher(), pipeline, by=dag_support.who(dag_run))


@task(map_index_template="{{ pipeline }}")
def restart(
    pipeline: str, params: dict[str, Any] | None = None, dag_run: object = None, run_id: str | None = None
) -> dict[str, Any]:
    """Stop the driver, start a new one, and wait until its queries run. Resets the restart budget."""
    from headrace.operations import deployment
    from headrace.operations.drivers import control, generations
    from headrace.orchestration import tasks

    form, loaded = params or {}, deployment.load()
    declared, request = loaded.pipeline(pipeline), dag_support.request_of(run_id, pipeline)
    queries = generations.named(declared, form.get("new_generations", ()))
    control.require_queries([loaded.pipeline(name) for name in form["pipelines"]], queries)
    generations.prepare(loaded.launcher(), loaded.bindings, declared, queries, form.get("rows", ""), request)
    return tasks.restart(
        loaded.launcher(),
        pipeline,
        by=dag_support.who(dag_run),
        reason=form["reason"],
        new_generations=queries,
        request=request,
    )


NEW_GENERATIONS = Param(
    [],
    type="array",
    items={"type": "string"},
    title="New generations",
    description="Queries that begin a new generation: state and offsets start again, and the old generation is kept. `all` "
    "means every query, including the archives. Select one pipeline only.",
)
ROWS = Param(
    "",
    type="string",
    enum=["", "keep", "empty"],
    title="Rows",
    description="For rows of an older generation in Cassandra: `keep` them, or `empty` the tables first (the pipeline must "
    "be stopped). Required only if a new generation begins over existing rows.",
)
WHAT_RUNS = "`pipelines/<name>.yaml`, `spark_jobs/<name>.py`, the checkpoints."

with DAG(
    "stream_start",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Start the drivers of the selected pipelines, or adopt running ones. The task ends when their queries run. From "
            "then on `streams_supervisor` keeps them running.",
            inputs=WHAT_RUNS,
            effects="starts one Spark driver per pipeline.",
            command="headrace stream start PIPELINE",
            runbook="runbooks/MISSING.md",
        ),
        tags=TAGS,
        params={
            "pipelines": dag_support.pipelines_param(PIPELINES, default=PIPELINES),
            "reason": dag_support.reason_param("start"),
            "new_generations": NEW_GENERATIONS,
            "rows": ROWS,
        },
    ),
):
    start.expand(pipeline=dag_support.chosen_pipelines())

with DAG(
    "stream_stop",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Stop the drivers of the selected pipelines. A running batch may finish. Nothing is lost: the next start "
            "continues from the checkpoint. `streams_supervisor` does not start a stopped stream.",
            inputs="the desired state of this run.",
            effects="stops the drivers.",
            command="headrace stream stop PIPELINE",
            runbook="howto/operate-streams.md",
        ),
        tags=TAGS,
        params={"pipelines": dag_support.pipelines_param(PIPELINES), "reason": dag_support.reason_param("stop")},
    ),
):
    stop.expand(pipeline=dag_support.chosen_pipelines())

with DAG(
    "stream_pause",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Stop the drivers until `stream_resume`. The Streams page and `headrace stream status` show the reason.",
            inputs="the desired state of this run.",
            effects="stops the drivers.",
            command="headrace stream pause PIPELINE --reason TEXT",
            runbook="howto/operate-streams.md",
        ),
        tags=TAGS,
        params={"pipelines": dag_support.pipelines_param(PIPELINES), "reason": dag_support.reason_param("maintenance")},
    ),
):
    pause.expand(pipeline=dag_support.chosen_pipelines())

with DAG(
    "stream_resume",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Start paused pipelines again. A pipeline that is not paused is refused, so that no stop is undone by mistake.",
            inputs=WHAT_RUNS,
            effects="starts one Spark driver per pipeline.",
            command="headrace stream resume PIPELINE",
            runbook="howto/operate-streams.md",
        ),
        tags=TAGS,
        params={"pipelines": dag_support.pipelines_param(PIPELINES)},
    ),
):
    resume.expand(pipeline=dag_support.chosen_pipelines())

with DAG(
    "stream_restart",
    schedule=None,
    **dag_support.dag_arguments(
        doc=dag_support.document(
            "Stop the drivers of the selected pipelines and start new ones. This also resets the restart budget: use it "
            "after CRASH_LOOP, once the cause is fixed.",
            inputs=WHAT_RUNS,
            effects="stops the drivers and starts new ones.",
            command="headrace stream restart PIPELINE",
            runbook="runbooks/CRASH_LOOP.md",
        ),
        tags=TAGS,
        params={
            "pipelines": dag_support.pipelines_param(PIPELINES),
            "reason": dag_support.reason_param("restart"),
            "new_generations": NEW_GENERATIONS,
            "rows": ROWS,
        },
    ),
):
    restart.expand(pipeline=dag_support.chosen_pipelines())
