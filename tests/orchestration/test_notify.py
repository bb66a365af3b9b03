"""What fails reaches a person: by mail to a real SMTP server on loopback, by a webhook, or not at all where nobody asked."""

from __future__ import annotations

import email.policy
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from headrace.operations import deployment
from headrace.operations.supervisor.memory import Supervision
from headrace.orchestration import notify
from headrace.store import failed_tasks
from tests.support.platform import free_ports


class Inbox:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.mails: list[tuple[str | None, list[str], str, str]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        (body,) = (part.get_content() for part in mail.walk() if part.get_content_maintype() == "text")
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, mail["Subject"], body))
        return "250 OK"


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A mail server, and the connection and recipients by which it is reached."""
    keeper = Inbox()
    (port,) = free_ports(1)
    server = Controller(keeper, hostname="127.0.0.1", port=port)
    server.start()
    extra = {"disable_tls": True, "disable_ssl": True, "from_email": "headrace@example.org"}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_ALERTS", json.dumps(connection))
    monkeypatch.setenv(notify.CONNECTION, "alerts")
    monkeypatch.setenv(notify.RECIPIENTS, "ops@example.org, oncall@example.org")
    try:
        yield keeper
    finally:
        server.stop()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A web server that keeps what is posted, and answers with `answers.status`."""
    answers = SimpleNamespace(status=200, posted=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answers.posted.append((self.path, json.loads(body)))
            self.send_response(answers.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/services"
    monkeypatch.setenv(
        "AIRFLOW_CONN_CHAT", json.dumps({"conn_type": "http", "host": address, "password": "T0/B1/secret-end"})
    )
    monkeypatch.setenv(notify.CONNECTION, "chat")
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def context() -> dict[str, Any]:
    error = "pos_sales needs a person: 8 restarts did not help; see docs/runbooks/CRASH_LOOP.md."
    instance = SimpleNamespace(dag_id="streams_supervisor", task_id="supervise", map_index=2, log_url="http://a/log")
    return {"ti": instance, "exception": ValueError(error), "map_index_label": "pos_sales"}


@pytest.mark.long(group="airflow")
def test_a_task_that_failed_is_mailed_with_its_reason_runbook_and_log(inbox: Inbox) -> None:
    notify.failed(context())
    ((sender, recipients, subject, text),) = inbox.mails
    assert sender == "headrace@example.org"
    assert recipients == ["ops@example.org", "oncall@example.org"]
    assert subject == "Headrace: streams_supervisor.supervise [pos_sales] failed"
    assert "CRASH_LOOP.md" in text
    assert "http://a/log" in text


def test_a_new_fault_and_its_end_are_notified_once_each_and_a_good_change_is_not(webhook: SimpleNamespace) -> None:
    bad = Supervision("pos_sales", verdict="STALLED", reason="still", runbook="docs/runbooks/STALLED.md")
    good = Supervision("pos_sales", verdict="HEALTHY", reason="fine")
    notify.changed("HEALTHY", bad)
    notify.changed("STALLED", bad)
    notify.changed("STALLED", good)
    notify.changed("HEALTHY", replace(good, verdict="IDLE"))
    notify.changed("", good)
    texts = [body["text"] for _, body in webhook.posted]
    assert [text.splitlines()[0] for text in texts] == [
        "Headrace: pos_sales is STALLED",
        "Headrace: pos_sales is HEALTHY",
    ]
    assert "See docs/runbooks/STALLED.md." in texts[0]
    assert {path for path, _ in webhook.posted} == {"/services/T0/B1/secret-end"}


def test_a_task_that_failed_is_written_for_the_exporter_whether_or_not_a_person_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deployment, "load", lambda: SimpleNamespace(root=str(tmp_path)))
    notify.failed(context())
    assert list(failed_tasks.newest(str(tmp_path))) == ["streams_supervisor.supervise"]
    monkeypatch.undo()
    monkeypatch.delenv(deployment.VARIABLE, raising=False)
    notify.failed(context())
    assert "streams_supervisor.supervise was not written for the exporter" in capsys.readouterr().out


def test_without_a_connection_nothing_is_sent(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.CONNECTION)
    notify.failed(context())
    assert inbox.mails == []


def test_what_cannot_be_sent_fails_nothing_and_names_no_secret(
    webhook: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.status = 500
    notify.failed(context())
    assert "was not sent by connection 'chat': the webhook answered 500" in capsys.readouterr().out
    (port,) = free_ports(1)
    gone = {"conn_type": "http", "host": f"http://127.0.0.1:{port}", "password": "secret-end"}
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(gone))
    notify.failed(context())
    output = capsys.readouterr().out
    assert "did not answer (ConnectError)" in output
    assert "secret-end" not in output


def test_a_mail_to_nobody_says_which_setting_is_missing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(notify.RECIPIENTS, " ")
    notify.failed(context())
    assert "HEADRACE_NOTIFY_TO lists no recipient" in capsys.readouterr().out
