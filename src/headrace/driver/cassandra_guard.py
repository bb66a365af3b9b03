"""A batch waits in place while Cassandra is unavailable, so the driver need not exit and the connector is not used (ADR 0025).

The connector refreshes the schema before each write (SPARKC-633 left one). While its control connection is down, the Java
driver 4.18.1 fails that request and never clears it: every later one of the session waits forever
(MetadataManager.startSchemaRequest; scylladb/java-driver#841 describes the same code). So the control connection is checked
first, and a session that ever lost it is closed, which also releases every thread that waits in it. A batch is safe to
repeat, so it is repeated if it failed because Cassandra became unavailable.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from headrace.driver import java
from headrace.driver.error_causes import reason_of

log = logging.getLogger(__name__)

Done = TypeVar("Done")

PATIENCE_SECONDS = 150.0
"""How long a batch that fails because of Cassandra is repeated, not counting the time in which Cassandra was unavailable."""

SETTLE_SECONDS = 20.0
"""How long after the driver those of executors may reconnect (`reconnectionDelayMS.max`, plus 5 s for a connect)."""

POLL_SECONDS = 0.5

_CONNECTOR = "com.datastax.spark.connector"

_renewing = threading.Lock()


class Connection(NamedTuple):
    """An open control connection: the name of its session, and its channel."""

    session: str
    channel: str


@dataclass
class Link:
    """One query's view of Cassandra.

    `connect` returns the open control connection, or None while there is none, and raises Py4JJavaError if no session can be
    opened. `renew` closes the session with this name. `pause` waits the given seconds, and raises if the query is told to
    stop. `report` receives what the batch waits for, and "" when it continues: such a batch does not count as hung (`work`).
    """

    query: str
    connect: Callable[[], Connection | None]
    renew: Callable[[str], None]
    pause: Callable[[float], None]
    clock: Callable[[], float] = time.monotonic
    report: Callable[[str], None] = lambda _what: None
    _known: Connection | None = None
    _changed: float = -math.inf

    def run_when_available(self, work: Callable[[], Done]) -> Done:
        """Return the result of `work`, started while Cassandra is available and repeated if it became unavailable meanwhile.

        Waits as long as Cassandra is unavailable: a new driver could do no more, and costs a restart. Raises what `work`
        raises, and Py4JJavaError if no session could be opened since the driver started.
        """
        deadline = self.clock() + PATIENCE_SECONDS
        while True:
            deadline += self._await()
            try:
                return work()
            except Exception as error:
                if not self._was_lost() or self.clock() > deadline:
                    raise
                log.warning(
                    "%s repeats its batch, because Cassandra became unavailable: %s", self.query, reason_of(error)
                )
                self.pause(POLL_SECONDS)

    def _await(self) -> float:
        """Wait for a control connection of a session that never lost it; return how many seconds that took."""
        began, waited = self.clock(), False
        try:
            while not (connection := self._connect()) or self._was_replaced(connection):
                if not waited:
                    log.warning("%s waits: Cassandra is unavailable", self.query)
                    self.report("Cassandra is unavailable")
                    waited = True
                if connection:
                    with contextlib.suppress(Py4JJavaError):  # the next check reports it
                        self.renew(connection.session)
                self.pause(POLL_SECONDS)
        finally:
            self.report("")
        if waited:
            log.info("%s continues: Cassandra is available again", self.query)
        if self._known and connection != self._known:
            self._changed = self.clock()
        self._known = connection
        return self.clock() - began if waited else 0.0

    def _was_replaced(self, connection: Connection) -> bool:
        known = self._known
        return known is not None and connection.session == known.session and connection.channel != known.channel

    def _connect(self) -> Connection | None:
        try:
            return self.connect()
        except Py4JJavaError:
            if not self._known:  # never connected: the binding may be wrong, and waiting does not fix that
                raise
            return None

    def _was_lost(self) -> bool:
        """Return whether the connection at the start of the work is gone, or so new that executors may still lack theirs."""
        return self._connect() != self._known or self.clock() - self._changed < SETTLE_SECONDS


def control_connection(connector: Any) -> Connection | None:  # noqa: ANN401 - a Java object
    """Return the open control connection of the session that the connector's writes use, or None."""
    session = connector.openSession()
    try:
        channel = session.getContext().getControlConnection().channel()
        if channel is None or channel.closeFuture().isDone():
            return None
        return Connection(str(session.getName()), str(channel.toString()))
    finally:
        session.close()  # returned to the connector, which keeps it open


def close_session(spark: SparkSession, connector: Any, name: str) -> None:  # noqa: ANN401 - a Java object
    """Close the connector's session with this name, if it is still in use: several queries may ask.

    Empties the connector's cache, which keeps a session until all users return it, and a failed write never does
    (AsyncStatementWriter.close). The cache holds nothing else: a driver has one binding.
    """
    with _renewing:
        session = connector.openSession()
        try:
            if session.getName() == name:
                log.warning("closing Cassandra session %s, which lost its control connection", name)
                java.singleton(spark, f"{_CONNECTOR}.cql.CassandraConnector").sessionCache().cache().clear()
                session.forceCloseAsync()
        finally:
            session.close()


def connector_of(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    """Return the connector with the settings of a write: those of the context and the session, which are set by now."""
    nothing = java.singleton(spark, "scala.collection.immutable.Map").empty()
    settings = spark._jsparkSession.sessionState().conf().getAllConfs()
    source = java.named(spark, f"{_CONNECTOR}.datasource.CassandraSourceUtil")
    conf = source.consolidateConfs(spark.sparkContext._jsc.sc().getConf(), settings, "default", "", nothing)
    return java.named(spark, f"{_CONNECTOR}.cql.CassandraConnector").apply(conf)
