"""One line out of the hundreds that a dead query leaves."""

from __future__ import annotations

import pytest

from headrace.streaming.reasons import LENGTH, SinkError, reason_of, writing

JAVA = """An exception was raised by the Python Proxy. Return Message: Traceback (most recent call last):
  File "writer.py", line 113, in _write_batch
py4j.protocol.Py4JJavaError: An error occurred while calling o3700.save.
: java.io.IOException: Failed to open native connection to Cassandra at {127.0.0.1:9042} :: nobody there
\tat com.datastax.spark.connector.cql.CassandraConnector$.createSession(CassandraConnector.scala:181)
Caused by: com.datastax.oss.driver.api.core.AllNodesFailedException: Could not reach any contact point
\tat com.datastax.oss.driver.api.core.AllNodesFailedException.copy(AllNodesFailedException.java:141)

=== Streaming Query ===
Identifier: pos_sales.tumbling [id = 1, runId = 2]
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            JAVA, "AllNodesFailedException: Could not reach any contact point", id="the deepest cause of Java"
        ),
        pytest.param(
            JAVA.split("Caused by")[0],
            "IOException: Failed to open native connection to Cassandra at {127.0.0.1:9042} :: nobody there",
            id="Java's only one",
        ),
        pytest.param("Traceback:\n  line 3\nbuiltins.ValueError: no\n", "ValueError: no", id="Python's"),
        pytest.param("something\nelse", "something", id="the first line of what is neither"),
        pytest.param("", "", id="nothing of nothing"),
        pytest.param("x" * 2 * LENGTH, "x" * LENGTH, id="not more than fits a line"),
    ],
)
def test_the_reason_is_the_first_cause(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_a_failed_write_tells_its_sink_through_all_that_is_wrapped_around_it() -> None:
    told = (
        "Cassandra table pos_sales.tumbling was not written: AllNodesFailedException: Could not reach any contact point"
    )
    with pytest.raises(SinkError) as raised, writing("Cassandra table pos_sales.tumbling"):
        raise RuntimeError(JAVA)
    assert str(raised.value) == told
    assert reason_of(f"{JAVA}\nheadrace.streaming.reasons.SinkError: {told}\n\n=== Streaming Query ===\n") == told
