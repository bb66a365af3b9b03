"""A batch waits for a Cassandra that is away, in its place: the driver need not end, and the connector is not asked.

The connector refreshes the schema before each write (SPARKC-633 left one). While the Java driver's control connection is
away, 4.18.1 answers neither that refresh nor any later one of its session: the request is never taken back
(MetadataManager.startSchemaRequest; the same code is described in scylladb/java-driver#841). So the control connection
is looked at first. What a batch does is safe to repeat, so one that fails because Cassandra went away is repeated.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from headrace.streaming.reasons import reason_of

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 150.0
"""How long a batch waits and repeats. Below `stuck.STUCK_SECONDS`, by which a batch without a job is one that hangs."""

SETTLE_SECONDS = 20.0
"""How long after the driver's connection those of executors may come back (`reconnectionDelayMS.max`, a connect's 5 s)."""

POLL_SECONDS = 0.5


@dataclass
class Link:
    """One query's view of Cassandra.

    `look` names the open control connection, "" while there is none, and raises Py4JJavaError where no session can be
    opened. `pause` waits so many seconds, and raises where the query is told to end.
    """

    query: str
    look: Callable[[], str]
    pause: Callable[[float], None]
    clock: Callable[[], float] = time.monotonic
    _known: str = ""
    _changed: float = field(default=-math.inf)

    def through(self, work: Callable[[], int]) -> int:
        """Return what `work` does, begun while Cassandra is there and repeated if that ended meanwhile.

        Raises ConnectionError where Cassandra is away for longer than `PATIENCE_SECONDS`, and what `work` raises.
        """
        deadline = self.clock() + PATIENCE_SECONDS
        while True:
            self._await(deadline)
            try:
                return work()
            except Exception as error:
                if not self._was_lost() or self.clock() > deadline:
                    raise
                log.warning("%s repeats its batch, during which Cassandra went away: %s", self.query, reason_of(error))
                self.pause(POLL_SECONDS)

    def _await(self, deadline: float) -> None:
        """Return once there is a control connection, and note when it became another one."""
        told = False
        while not (seen := self._seen()):
            if self.clock() > deadline:
                raise ConnectionError(f"Cassandra is away for {PATIENCE_SECONDS:.0f} s; look at its nodes.")
            if not told:
                log.warning("%s waits: Cassandra is away", self.query)
                told = True
            self.pause(POLL_SECONDS)
        if told:
            log.info("%s goes on: Cassandra is back", self.query)
        if self._known and seen != self._known:
            self._changed = self.clock()
        self._known = seen

    def _seen(self) -> str:
        try:
            return self.look()
        except Py4JJavaError:
            if not self._known:  # it never was there: the binding may be wrong, which waiting does not mend
                raise
            return ""

    def _was_lost(self) -> bool:
        """Return whether the connection that the work began on is gone, or is so new that executors may lack theirs."""
        return self._seen() != self._known or self.clock() - self._changed < SETTLE_SECONDS


def control_connection(spark: SparkSession) -> str:
    """Return the name of the open control connection of the session that the connector's writes use, or ""."""
    jvm = spark._jvm
    source = jvm.com.datastax.spark.connector.datasource.CassandraSourceUtil
    nothing = getattr(getattr(jvm.scala.collection.immutable, "Map$"), "MODULE$").empty()
    settings = spark._jsparkSession.sessionState().conf().getAllConfs()
    conf = source.consolidateConfs(spark.sparkContext._jsc.sc().getConf(), settings, "default", "", nothing)
    session = jvm.com.datastax.spark.connector.cql.CassandraConnector.apply(conf).openSession()
    try:
        channel = session.getContext().getControlConnection().channel()
        return "" if channel is None or channel.closeFuture().isDone() else str(channel.toString())
    finally:
        session.close()
