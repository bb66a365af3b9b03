"""The commands that the runbooks name, as written there, in the pod of the scheduler of a real cluster ($HEADRACE_KUBECONFIG).

Slow: thirty processes, each of some seconds, among them four batch runs. Without new generations, which would begin every sink
again: `tests/airflow/` and `tests/cli/` start those.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.charts import ROOT
from tests.support.cluster import KUBECONFIG, kubectl, namespace
from tests.support.cluster_streams import start
from tests.test_printed_commands import IN_QUOTES, ON_A_LINE, lines_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not KUBECONFIG, reason="HEADRACE_KUBECONFIG names no cluster"),
]
NAME, QUERY, SINK, TOPIC = "web_events", "files", "web_events.files", "quickstart"
DAY = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
VALUES = {
    "PIPELINE.archive_TOPIC": f"{NAME}.archive_{TOPIC}", "PIPELINE.QUERY": f"{NAME}.{QUERY}", "PIPELINE": NAME, "QUERY": QUERY,
    "SINK": SINK, "TOPIC:PARTITION:FIRST-LAST": f"{TOPIC}:0:0-0", "TOPIC": TOPIC, "DAY": DAY, "RUN": "none", "TEXT": "'a test'",
}  # fmt: skip
ELSEWHERE = {"up", "provision"}  # docs/runbooks/README.md: an apply on a cluster
# Refused for a reason that the data gives, in one sentence: exit code 1, 4 (differs) or 5 (not compared).
SAYS = {0, 1, 3, 4, 5}


def commands() -> list[list[str]]:
    """Return the words of each command of a runbook, with the values of this cluster; one that only names a group is left out."""
    texts = [path.read_text() for path in sorted(ROOT.glob("docs/runbooks/*.md"))]
    lines = dict.fromkeys(
        " ".join(line.split()) for text in texts for line in [*IN_QUOTES.findall(text), *ON_A_LINE.findall(text)]
    )
    by_words: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        for key, value in VALUES.items():
            line = re.sub(rf"(?<![A-Za-z_.]){re.escape(key)}(?![A-Za-z_])", value, line)
        for words in lines_of(line):
            complete = len(words) > 2 or words in (["status"], ["stream", "status"])
            if complete and words[0] not in ELSEWHERE and "--new-generation" not in words:
                reason = words.index("--reason") if "--reason" in words else len(words)
                by_words.setdefault(tuple(words[:reason]), words)  # once, whatever the reason
    # What stops the stream comes after what reads it, what starts it after what wants it stopped.
    order = ("stop", "start", "restart", "resume")
    return sorted(
        by_words.values(), key=lambda words: order.index(words[1]) + 1 if words[1:] and words[1] in order else 0
    )


def inside(words: list[str]) -> tuple[int, str]:
    """Run a command as the runbooks' page says, and return its exit code and what it printed."""
    done = kubectl(
        "exec", "-n", namespace("airflow"), "deploy/airflow-scheduler", "--", "headrace", *words, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(stopped_at_the_end: None) -> Iterator[None]:
    start(NAME)
    yield
    start(NAME)


def test_each_command_of_a_runbook_does_what_it_says_or_says_in_a_sentence_why_not(running: None) -> None:
    wrong = []
    every = commands()
    assert len(every) > 25
    for words in every:
        code, printed = inside(words)
        if code not in SAYS or "Traceback" in printed or "Usage:" in printed or "manages the servers of one" in printed:
            wrong.append((shlex.join(words), code, printed[-600:]))
        print(f"  {code}  headrace {shlex.join(words)}")
    assert wrong == []


def test_the_state_of_the_streams_is_that_of_the_drivers(running: None) -> None:
    code, printed = inside(["stream", "status", NAME, "--json"])
    assert code == 0, printed
    rows = json.loads(printed[printed.index("[") : printed.rindex("]") + 1])
    assert {row["pipeline"] for row in rows} == {NAME}
    assert inside(["status"])[0] == 0
