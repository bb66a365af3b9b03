"""DAGs for tests of Airflow itself: one that counts, one that fails, one that asks, two that read what was checked."""

from datetime import UTC, datetime, timedelta
from typing import Any, Never

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, task

START = datetime(2026, 1, 1, tzinfo=UTC)


@task
def numbers(params: Any = None) -> list[int]:
    return list(range(int(params["count"])))


@task(map_index_template="{{ pipeline }}")
def named(pipeline: str) -> str:
    return pipeline


@task
def square(number: int) -> int:
    return number * number


@task
def deployment_root() -> str:
    from headrace.operations import deployment

    return deployment.load().root


@task
def refuse() -> Never:
    raise ValueError("refused as asked")


@task
def act() -> str:
    return "done"


with DAG("probe_numbers", start_date=START, schedule=None, params={"count": 3}, max_active_runs=20):
    square.expand(number=numbers())
    deployment_root()

with DAG("probe_pipelines", start_date=START, schedule=None):
    named.expand(pipeline=["pos_sales", "no_such_pipeline"])

with DAG("probe_failure", start_date=START, schedule=None):
    refuse() >> act()

with DAG("probe_question", start_date=START, schedule=None):
    (
        ApprovalOperator(
            task_id="ask",
            subject="Go on?",
            defaults=["Reject"],
            response_timeout=timedelta(hours=1),
            retries=2,
            retry_delay=timedelta(seconds=1),
        )
        >> act()
    )

for sink in ("files.web_events.files", "kafka.transformed"):
    with DAG(f"probe_reads_{sink}", start_date=START, schedule=[Asset(f"sink_{sink}", uri=f"headrace://sinks/{sink}")]):
        act()
