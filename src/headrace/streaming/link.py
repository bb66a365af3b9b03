"""A batch waits for a Cassandra that is away, in its place: the driver need not end, and the connector is not asked (ADR 0025).

The connector refreshes the schema before each write (SPARKC-633 left one). The Java driver 4.18.1 fails that while its
control connection is away, and never takes the failed request back: every later one of the session waits for ever
(MetadataManager.startSchemaRequest; the same code is described in scylladb/java-driver#841). So the control connection is
looked at first, and a session that ever lost it is closed, which also frees whoever waits in it. What a batch does is safe
to repeat, so one that fails because Cassandra went away is repeated.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from headrace.streaming import java
from headrace.streaming.reasons import reason_of

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 150.0
"""How long a batch that fails because Cassandra went away is repeated, without the time in which Cassandra was away."""

SETTLE_SECONDS = 20.0
"""How long after the driver's connection those of executors may come back (`reconnectionDelayMS.max`, a connect's 5 s)."""

POLL_SECONDS = 0.5

_CONNECTOR = "com.datastax.spark.connector"

_renewing = threading.Lock()


class Connection(NamedTuple):
    """An open control connection: the name of the session that it is of, and its own."""

    session: str
    channel: str


@dataclass
class Link:
    """One query's view of Cassandra.

    `look` returns the open control connection, None while there is none, and raises Py4JJavaError where no session can be
    opened. `renew` closes the session of a name. `pause` waits so many seconds, and raises where the query is told to end.
    `tell` is given what the batch waits for, and "" when it goes on: such a batch does not hang (`work`).
    """

    query: str
    look: Callable[[], Connection | None]
    renew: Callable[[str], None]
    pause: Callable[[float], None]
    clock: Callable[[], float] = time.monotonic
    tell: Callable[[str], None] = lambda _what: None
    _known: Connection | None = None
    _changed: float = -math.inf

    def through(self, work: Callable[[], int]) -> int:
        """Return what `work` does, begun while Cassandra is there and repeated if that ended meanwhile.

        It waits as long as Cassandra is away: a new driver would do no more, and costs a restart. Raises what `work` raises,
        and Py4JJavaError where no session could be opened since the driver started.
        """
        deadline = self.clock() + PATIENCE_SECONDS
        while True:
            deadline += self._await()
            try:
                return work()
            except Exception as error:
                if not self._was_lost() or self.clock() > deadline:
                    raise
                log.warning("%s repeats its batch, during which Cassandra went away: %s", self.query, reason_of(error))
                self.pause(POLL_SECONDS)

    def _await(self) -> float:
        """Return once there is a control connection of a session that never lost it; for how many seconds that took."""
        began, told = self.clock(), False
        try:
            while not (seen := self._seen()) or self._spoiled(seen):
                if not told:
                    log.warning("%s waits: Cassandra is away", self.query)
                    self.tell("Cassandra is away")
                    told = True
                if seen:
                    with contextlib.suppress(Py4JJavaError):  # the next look tells
                        self.renew(seen.session)
                self.pause(POLL_SECONDS)
        finally:
            self.tell("")
        if told:
            log.info("%s goes on: Cassandra is back", self.query)
        if self._known and seen != self._known:
            self._changed = self.clock()
        self._known = seen
        return self.clock() - began if told else 0.0

    def _spoiled(self, seen: Connection) -> bool:
        known = self._known
        return known is not None and seen.session == known.session and seen.channel != known.channel

    def _seen(self) -> Connection | None:
        try:
            return self.look()
        except Py4JJavaError:
            if not self._known:  # it never was there: the binding may be wrong, which waiting does not mend
                raise
            return None

    def _was_lost(self) -> bool:
        """Return whether the connection that the work began on is gone, or is so new that executors may lack theirs."""
        return self._seen() != self._known or self.clock() - self._changed < SETTLE_SECONDS


def control_connection(connector: Any) -> Connection | None:  # noqa: ANN401 - a Java object
    """Return the open control connection of the session that the connector's writes use, or None."""
    session = connector.openSession()
    try:
        channel = session.getContext().getControlConnection().channel()
        if channel is None or channel.closeFuture().isDone():
            return None
        return Connection(str(session.getName()), str(channel.toString()))
    finally:
        session.close()  # given back to the connector, which keeps it


def close_session(spark: SparkSession, connector: Any, name: str) -> None:  # noqa: ANN401 - a Java object
    """Close the connector's session of this name, if it still is the one that is used: several queries may ask.

    The connector's cache is emptied, for it keeps a session while anybody has not given it back, and a write that fails
    never does (AsyncStatementWriter.close). Nothing else is in it: a driver has one binding.
    """
    with _renewing:
        session = connector.openSession()
        try:
            if session.getName() == name:
                log.warning("Cassandra session %s is closed: it lost its control connection", name)
                java.singleton(spark, f"{_CONNECTOR}.cql.CassandraConnector").sessionCache().cache().clear()
                session.forceCloseAsync()
        finally:
            session.close()


def connector_of(spark: SparkSession) -> Any:  # noqa: ANN401 - a Java object
    """Return the connector with the settings that a write has: the context's and the session's, which are set by now."""
    nothing = java.singleton(spark, "scala.collection.immutable.Map").empty()
    settings = spark._jsparkSession.sessionState().conf().getAllConfs()
    source = java.named(spark, f"{_CONNECTOR}.datasource.CassandraSourceUtil")
    conf = source.consolidateConfs(spark.sparkContext._jsc.sc().getConf(), settings, "default", "", nothing)
    return java.named(spark, f"{_CONNECTOR}.cql.CassandraConnector").apply(conf)
