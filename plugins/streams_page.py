"""The Streams page in Airflow's menu: an external view in a frame, served by the API server.

Every component loads its plugins, and tasks are forks of the scheduler: what shows the page is imported by the first
request. So it costs the others nothing, and no task finds an older Headrace in its memory than the one on disk.
"""

from __future__ import annotations

from typing import Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

PREFIX = "/headrace"


class LazyApp:
    """An ASGI app that is imported when it is called."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI has no types of its own
        """Serve one request."""
        from headrace.operations.page_app import app

        await app(scope, receive, send)


class StreamsLink(BaseOperatorLink):
    """On every task: the Streams page."""

    name = "Streams page"

    def get_link(self, _operator: object, *, ti_key: object) -> str:
        """Return the address of the page in Airflow's own frame."""
        del ti_key
        return f"{_base_url()}/plugin/streams"


class DataDocsLink(BaseOperatorLink):
    """On every task of the DAG `quality`: the Data Docs, checks of every sink."""

    name = "Data Docs"

    def get_link(self, _operator: object, *, ti_key: Any) -> str:  # noqa: ANN401 - TaskInstanceKey
        """Return the address of the Data Docs, or nothing for the tasks of other DAGs."""
        return f"{_base_url()}{PREFIX}/docs/index.html" if ti_key.dag_id == "quality" else ""


class DriverLogLink(BaseOperatorLink):
    """On a task that is mapped over pipelines: the log of its pipeline's driver."""

    name = "Driver log"

    def get_link(self, _operator: object, *, ti_key: Any) -> str:  # noqa: ANN401 - TaskInstanceKey
        """Return the address of the log, or nothing where the task's label is no pipeline's name."""
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
    """Tell Airflow of the app and of its place in the menu. The address is relative: a path prefix stays in front."""

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
