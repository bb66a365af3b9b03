"""Why a query ended, as one line extracted from the hundreds that Spark, Py4J and Java print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.contract.exit_codes import Exit
from headrace.store import topic_identity

LENGTH = 500

# In order of precedence: state that cannot be loaded for lack of memory is not damaged. Texts of Spark 3.5, its Kafka
# and Cassandra connectors, Hadoop and Linux, and of `store.checkpoint_log`.
_CLASSES = (
    (Exit.REFUSED, re.escape(topic_identity.REPLACED)),
    (
        Exit.DUPLICATE_WRITER,
        r"CONCURRENT_STREAM_LOG_UPDATE|[Mm]ultiple streaming queries are concurrently using",
    ),
    (
        Exit.OUT_OF_MEMORY,
        (
            r"java\.lang\.OutOfMemoryError|OutOfDirectMemoryError|SparkOutOfMemoryError|UNABLE_TO_ACQUIRE_MEMORY|OOMKilled|"
            r"[Ee]xit(?:ed with)? code:? 137\b|[Ee]xit status:? 137\b|exited with code 52\b|Cannot allocate memory|"
            r"^(?:\w+\.)*MemoryError\b|ArrowMemoryError"
        ),
    ),
    (Exit.DISK_FULL, r"No space left on device|Disk quota exceeded|\bENOSPC\b|\bEDQUOT\b"),
    (
        Exit.DAMAGED,
        (
            r"CANNOT_LOAD_STATE_STORE|Error reading delta file|[Ii]ncomplete log file|batch \d+ doesn't exist|"
            r"HDFSBackedStateStoreProvider\S*(?:DeltaFile|SnapshotFile)|Stream is corrupted|"
            r"failOnDataLoss|[Oo]ffsets? out of range|OffsetOutOfRange|data may have been lost|is missing or truncated|"
            r"Provided state schema|STATE_STORE_.*SCHEMA"
        ),
    ),
    (Exit.WORKER_LOST, r"Python worker (?:exited unexpectedly|failed to connect back)"),
    (
        Exit.STORE_AWAY,
        (
            r"AllNodesFailedException|NoNodeAvailableException|Failed to open native connection to Cassandra|"
            r"Could not reach any contact point|"
            r"org\.apache\.kafka\.common\.errors\.(?:TimeoutException|DisconnectException|NetworkException)|"
            r"Kafka at \S+ does not answer"
        ),
    ),
)
_CLASSES_SEEN = tuple((end, re.compile(pattern, re.MULTILINE)) for end, pattern in _CLASSES)
_LOGIN = re.compile(r"[Aa]uthentication|Authorization|not authorized")

_STEP = re.compile(r"^[\w.]*SinkError: (.+)$", re.MULTILINE)
_JAVA = re.compile(r"^(?:Caused by: |: )(?:[\w$]+\.)*([\w$]+(?:Exception|Error)(?:: .+)?)$", re.MULTILINE)
_PYTHON = re.compile(r"^(?:\w+\.)*(\w+(?:Exception|Error): .+)$", re.MULTILINE)

_OF_A_WORKER = "PythonException: Traceback"
"""Java's cause if a Python function failed; the function's own error follows it."""


class SinkError(RuntimeError):
    """A batch could not be written to a sink; one line with the sink and the root cause."""


@contextmanager
def writing(sink: str) -> Iterator[None]:
    """Name the sink in the error if the body raises."""
    try:
        yield
    except Exception as error:
        raise SinkError(f"{sink} was not written: {reason_of(error)}") from error


def class_of(texts: Sequence[str]) -> Exit:
    """Return the exit code for a driver from the errors of its ended queries; the most severe one counts.

    A store that refuses the login is not unavailable: waiting does not help, so such an end uses the restart budget.
    """
    for end, pattern in _CLASSES_SEEN:
        if any(pattern.search(text) and not (end is Exit.STORE_AWAY and _LOGIN.search(text)) for text in texts):
            return end
    return Exit.TRANSIENT


def reason_of(error: object) -> str:
    """Return the root cause from an error's text, at most 500 characters: the sink's, else Java's, else Python's."""
    text = str(error)
    for pattern in (_STEP, _JAVA, _PYTHON):
        causes: list[str] = pattern.findall(text)
        if causes and _OF_A_WORKER not in causes[-1]:
            return causes[-1][:LENGTH]
    return (text.splitlines() or [""])[0][:LENGTH]
