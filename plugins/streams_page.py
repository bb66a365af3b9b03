"""The Streams page in Airflow's menu: an external view in a frame, served by the API server.

Every component loads its plugins, and tasks are forks of the scheduler: what shows the page is imported by the first
request. So it costs the others nothing, and no task finds an older Headrace in its memory than the one on disk.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/headrace"


class LazyApp:
    """An ASGI app that is imported when it is called."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI has no types of its own
        """Serve one request."""
        from headrace.operations.page_app import app

        await app(scope, receive, send)


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
