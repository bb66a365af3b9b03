"""The Streams page in Airflow's menu: an external view in a frame, served by the API server.

Every Airflow component loads all plugins, and tasks are forks of the scheduler. So the first request imports the page: it
costs the other components nothing, and no task has an older Headrace in memory than the one on disk.
"""

from __future__ import annotations

from typing import Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

PREFIX = "/headrace"


class LazyApp:
    """An ASGI app that is imported at the first call."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI has no types of its own
        """Serve one request."""
        from headrace.orchestration.page_app import app

        await app(scope, receive, send)


class StreamsLink(BaseOperatorLink):
    """A link to the Streams page on every task."""

    name = "Streams page"

    def get_link(self, _operator: object, *, ti_key: object) -> str:
        """Return the address of the page in Airflow's frame."""
        del ti_key
        return f"{_base_url()}/plugin/streams"


class DataDocsLink(BaseOperatorLink):
    """A link to the Data Docs (checks of every sink) on every task of the DAG `quality`."""

    name = "Data Docs"

    def get_link(self, _operator: object, *, ti_key: Any) -> str:  # noqa: ANN401 - TaskInstanceKey
        """Return the address of the Data Docs, or an empty text for the tasks of other DAGs."""
        return f"{_base_url()}{PREFIX}/docs/index.html" if ti_key.dag_id == "quality" else ""


class DriverLogLink(BaseOperatorLink):
    """A link to the log of the pipeline's driver on every task that is mapped over pipelines."""

    name = "Driver log"

    def get_link(self, _operator: object, *, ti_key: Any) -> str:  # noqa: ANN401 - TaskInstanceKey
        """Return the address of the log, or an empty text if the label of the task is not a pipeline."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        from headrace.operations import deployment

        with create_session() as session:
            instance = TaskInstance.get_task_instance(
                ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index, session=session
            )
            label = str(instance.rendered_map_index or "") if instance else ""
        known = label and (deployment.load().project / "pipelines" / f"{label}.yaml").is_file()
        return f"{_base_url()}{PREFIX}/log/{label}" if known else ""


def _base_url() -> str:
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


class StreamsPage(AirflowPlugin):
    """Register the app and its menu entry. The address is relative, so that it works behind a path prefix."""

    name = "headrace_streams"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "Streams"}]  # noqa: RUF012 - as Airflow declares it
    external_views = [  # noqa: RUF012
        {
            "name": "Streams",
            "href": f"{PREFIX[1:]}/",
            "destination": "nav",
            "url_route": "streams",
            "nav_top_level": True,
        }
    ]
    global_operator_extra_links = [StreamsLink(), DriverLogLink(), DataDocsLink()]  # noqa: RUF012
