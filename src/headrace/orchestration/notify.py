"""Notify people, by mail or webhook, of failed tasks and of changed verdicts. The exporter gets failed tasks from a file.

HEADRACE_NOTIFY_CONNECTION names an Airflow connection: type `smtp`, or `http` for a webhook. The password of a webhook's
connection, if there is one, is the secret end of its URL, as in Slack. HEADRACE_NOTIFY_TO lists the recipients of mails.
Without HEADRACE_NOTIFY_CONNECTION nothing is sent.
A notification that cannot be sent is written to the task's log and never fails the task.

DAG files import this at every parse, so heavy imports are inside functions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from typing import Any

from headrace.contract.wording import printable
from headrace.operations.supervisor.memory import FAULTS, Supervision

CONNECTION = "HEADRACE_NOTIFY_CONNECTION"
RECIPIENTS = "HEADRACE_NOTIFY_TO"
SECONDS = 20


def failed(context: Mapping[str, Any]) -> None:
    """Notify of a task that finally failed: Airflow's `on_failure_callback`, called with its context."""
    instance = context["ti"]
    task = f"{instance.dag_id}.{instance.task_id}"
    _remember(task)
    index = getattr(instance, "map_index", -1)
    which = f" [{context.get('map_index_label') or index}]" if index is not None and index >= 0 else ""
    why = printable(str(context.get("exception") or "no reason was given"))
    send(f"{task}{which} failed", f"{why}\n{getattr(instance, 'log_url', '')}".strip())


def _remember(task: str) -> None:
    """Write the failure for the exporter, or log why that cannot be done. Raises nothing."""
    try:
        from headrace.operations import deployment
        from headrace.store import failed_tasks

        failed_tasks.remember(deployment.load().root, task)
    except Exception as error:  # the task has failed, and a person must still be notified
        print(printable(f"The failure of {task} was not written for the exporter: {error}"))  # noqa: T201


def changed(before: str, after: Supervision) -> None:
    """Notify of the verdict after a supervisor's pass, if it is a new fault, or if a fault is over.

    `before` is the verdict of the previous pass ("" if there was none).
    """
    if after.verdict == before or not {after.verdict, before} & FAULTS:
        return
    runbook = f"\nSee {after.runbook}." if after.runbook else ""
    send(f"{after.pipeline} is {after.verdict}", f"{printable(after.reason)}{runbook}")


def send(subject: str, text: str) -> None:
    """Send one notification, or log why it was not sent. Raises nothing."""
    name = os.environ.get(CONNECTION, "")
    if not name:
        return
    try:
        _send(name, f"Headrace: {subject}", text)
    except Exception as error:  # whatever a mail server or a webhook answers must not fail the task
        print(printable(f"The notification {subject!r} was not sent by connection {name!r}: {error}"))  # noqa: T201


def _send(name: str, subject: str, text: str) -> None:
    from airflow.sdk import BaseHook

    connection = BaseHook.get_connection(name)
    if connection.conn_type == "smtp":
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        recipients = [part.strip() for part in os.environ.get(RECIPIENTS, "").split(",") if part.strip()]
        if not recipients:
            raise ValueError(f"{RECIPIENTS} lists no recipient")
        with SmtpHook(name) as hook:
            hook.send_email_smtp(to=recipients, subject=subject, html_content=f"<pre>{escape(text)}</pre>")
        return
    import httpx

    address = f"{connection.host or ''}"
    if "://" not in address:
        port = f":{connection.port}" if connection.port else ""
        address = f"{connection.schema or 'https'}://{address}{port}"
    address = f"{address.rstrip('/')}/{connection.password.lstrip('/')}" if connection.password else address
    try:  # no error may contain the URL, whose end is secret
        answer = httpx.post(address, json={"text": f"{subject}\n{text}"}, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        raise ValueError(f"the webhook did not answer ({type(fault).__name__})") from None
    if answer.is_error:
        raise ValueError(f"the webhook answered {answer.status_code}")
