"""One line out of the hundreds that a dead query leaves."""

from __future__ import annotations

import pytest

from headrace.contract.exit_codes import HELPS, Exit
from headrace.driver.error_causes import LENGTH, SinkError, class_of, reason_of, writing

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

UDF = """An exception was raised by the Python Proxy. Return Message: Traceback (most recent call last):
py4j.protocol.Py4JJavaError: An error occurred while calling o120.save.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "spark_jobs/pos_sales.py", line 9, in checked
ValueError: cannot take poison

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:572)
Caused by: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "spark_jobs/pos_sales.py", line 9, in checked
ValueError: cannot take poison

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:572)
"""  # noqa: E501 - as Spark prints it


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
        pytest.param(UDF, "ValueError: cannot take poison", id="that of a Python function inside Java's"),
        pytest.param("something\nelse", "something", id="the first line of what is neither"),
        pytest.param("", "", id="nothing of nothing"),
        pytest.param("x" * 2 * LENGTH, "x" * LENGTH, id="not more than fits a line"),
    ],
)
def test_the_reason_is_the_first_cause(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_a_failed_write_tells_its_sink_through_all_that_is_wrapped_around_it() -> None:
    message = (
        "Cassandra table pos_sales.tumbling was not written: AllNodesFailedException: Could not reach any contact point"
    )
    with pytest.raises(SinkError) as raised, writing("Cassandra table pos_sales.tumbling"):
        raise RuntimeError(JAVA)
    assert str(raised.value) == message
    assert (
        reason_of(f"{JAVA}\nheadrace.driver.error_causes.SinkError: {message}\n\n=== Streaming Query ===\n") == message
    )


LOST = "SparkException: Job aborted due to stage failure: ExecutorLostFailure (executor 1 exited caused by one of "


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("java.lang.OutOfMemoryError: Java heap space", Exit.OUT_OF_MEMORY),
        ("java.lang.OutOfMemoryError: GC overhead limit exceeded", Exit.OUT_OF_MEMORY),
        ("Caused by: java.lang.OutOfMemoryError: Cannot reserve 4194304 bytes of direct buffer memory", Exit.OUT_OF_MEMORY),
        ("io.netty.util.internal.OutOfDirectMemoryError: failed to allocate 16777216 byte(s)", Exit.OUT_OF_MEMORY),
        (LOST + "the running tasks) Reason: The executor with id 1 exited with exit code 137(SIGKILL, ...)", Exit.OUT_OF_MEMORY),
        (LOST + "the running tasks) Reason: Command exited with code 52", Exit.OUT_OF_MEMORY),
        ("[CANNOT_LOAD_STATE_STORE] ...\nCaused by: java.lang.OutOfMemoryError: Java heap space", Exit.OUT_OF_MEMORY),
        ("MemoryError: Unable to allocate", Exit.OUT_OF_MEMORY),
        ("Caused by: java.io.IOException: No space left on device", Exit.DISK_FULL),
        ("OSError: [Errno 28] No space left on device: '/x'", Exit.DISK_FULL),
        ("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)", Exit.WORKER_LOST),
        (JAVA, Exit.STORE_AWAY),
        ("org.apache.kafka.common.errors.TimeoutException: Timed out waiting for a node assignment.", Exit.STORE_AWAY),
        ("HeadraceError: Kafka at 127.0.0.1:9092 does not answer (Local: Timed out)", Exit.STORE_AWAY),
        (
            ("AllNodesFailedException: Could not reach any contact point (127.0.0.1: "
            "AuthenticationException: Provided username x and/or password are incorrect)"),
            Exit.TRANSIENT,
        ),
        ("Error reading delta file /1.delta of HDFSStateStoreProvider", Exit.DAMAGED),
        ("[CONCURRENT_STREAM_LOG_UPDATE] Concurrent update to the log", Exit.DUPLICATE_WRITER),
        ("java.lang.RuntimeException: the well is poisoned", Exit.TRANSIENT),
        ("java.lang.IllegalStateException: took 137 rows, exit code unknown", Exit.TRANSIENT),
    ],
)  # fmt: skip
def test_the_class_of_an_end_follows_from_its_text(text: str, end: Exit) -> None:
    assert class_of([text]) is end
    assert class_of(["org.apache.spark.SparkException: Job aborted.", text]) is end, "whichever query had it"


def test_the_gravest_of_several_ends_counts() -> None:
    texts = [
        "Python worker exited unexpectedly (crashed)",
        "is missing or truncated",
        "java.lang.OutOfMemoryError: Java heap space",
    ]
    assert class_of(texts) is Exit.OUT_OF_MEMORY
    assert class_of(texts[:2]) is Exit.DAMAGED


def test_every_class_whose_next_driver_would_end_the_same_names_what_helps() -> None:
    assert set(HELPS) == {Exit.OUT_OF_MEMORY, Exit.DISK_FULL, Exit.WORKER_LOST}
