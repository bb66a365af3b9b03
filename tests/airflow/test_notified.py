"""A task that fails in a real Airflow tells a person by the connection that is named; the pool of batch runs is there."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from headrace.local.settings import Settings
from headrace.orchestration.pools import BATCH_POOL

pytestmark = [pytest.mark.platform, pytest.mark.long(group="airflow")]


def test_the_pool_of_batch_runs_has_the_slots_of_the_settings(airflow: Any, airflow_settings: Settings) -> None:
    assert airflow.get(f"/pools/{BATCH_POOL}")["slots"] == airflow_settings.airflow_batch_slots


def test_a_dag_that_fails_posts_its_reason_to_the_webhook(airflow: Any, airflow_settings: Settings) -> None:
    posted, arrived = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    name = airflow_settings.airflow_notify_connection
    connection = {"connection_id": name, "conn_type": "http", "host": f"http://127.0.0.1:{server.server_port}"}
    try:
        airflow._ask("POST", "/api/v2/connections", json=connection)
        airflow.wait_for_dag("stream_stop")
        run_id, state = airflow.run("stream_stop", {"pipelines": [], "reason": "a test"})
        assert state == "failed"
        assert arrived.wait(300), airflow.task_log("stream_stop", run_id, "chosen")
    finally:
        airflow._ask("DELETE", f"/api/v2/connections/{name}")
        server.shutdown()
        thread.join()
        server.server_close()
    (body,) = posted
    assert body["text"].startswith("Headrace: stream_stop.chosen failed")
    assert "No pipeline was chosen" in body["text"]
