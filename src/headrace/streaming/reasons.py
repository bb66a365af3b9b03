"""Why a query ended, in one line, out of the hundreds that Spark, Py4J and Java print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.contract import identity
from headrace.contract.exits import Exit

LENGTH = 500

NULL_IN_REQUIRED = "nulls in required columns"
"""What the writer says where a required column has no value; no restart changes that."""

# In the order in which they count: a state that cannot be loaded for want of memory is not a damaged one. Texts of Spark 3.5,
# its Kafka and Cassandra connectors, Hadoop and Linux.
_CLASSES = (
    (Exit.REFUSED, re.escape(identity.REPLACED)),
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
            r"failOnDataLoss|[Oo]ffsets? out of range|OffsetOutOfRange|data may have been lost|is missing or cut|"
            r"Provided state schema|STATE_STORE_.*SCHEMA"
        ),
    ),
    (Exit.REFUSED, NULL_IN_REQUIRED),
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


class SinkError(RuntimeError):
    """A sink that a batch could not be written to, with the first cause; one line."""


@contextmanager
def writing(sink: str) -> Iterator[None]:
    """Tell which sink it was if what is inside raises."""
    try:
        yield
    except Exception as error:
        raise SinkError(f"{sink} was not written: {reason_of(error)}") from error


def class_of(texts: Sequence[str]) -> Exit:
    """Return the class of what ended a driver, from the errors of the queries that ended; the gravest counts.

    A store that refuses the login is not away: waiting does not change that, so such an end costs a restart.
    """
    for end, pattern in _CLASSES_SEEN:
        if any(pattern.search(text) and not (end is Exit.STORE_AWAY and _LOGIN.search(text)) for text in texts):
            return end
    return Exit.TRANSIENT


def reason_of(error: object) -> str:
    """Return the first cause that an error's text tells, at most 500 characters: the sink's, else Java's, else Python's."""
    text = str(error)
    for pattern in (_STEP, _JAVA, _PYTHON):
        found: list[str] = pattern.findall(text)
        if found:
            return found[-1][:LENGTH]
    return (text.splitlines() or [""])[0][:LENGTH]
