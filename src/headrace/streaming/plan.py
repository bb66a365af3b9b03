"""What Spark's plan says: the stateful part for the fingerprint, and whether a dimension is joined directly."""

from __future__ import annotations

import re

from pyspark.sql import DataFrame

from headrace.contract.exits import Exit
from headrace.errors import HeadraceError

_STATEFUL = re.compile(
    r"\b(Aggregate|Join|Deduplicate|DeduplicateWithinWatermark|EventTimeWatermark|FlatMapGroupsWithState)\b"
)
# A column with a watermark carries its delay behind its id (`#12-T600000ms`): that it has one stays, the delay goes.
_EXPRESSION_ID = re.compile(r"#\d+L?|(?<=-T)\d+ms")
_WATERMARK_DELAY = re.compile(r", [^,]*$")
_DIRECT_JOIN_KEYS = re.compile(r"Cassandra Direct Join \[(.*?)\]")


def stateful_nodes(frame: DataFrame) -> list[str]:
    """Return the stateful nodes of a streaming frame's analysed plan, outermost first, without expression ids.

    A watermark's delay is left out: Spark lets it change on a live checkpoint.
    """
    text = frame._jdf.queryExecution().analyzed().toString()
    nodes = []
    for line in text.splitlines():
        node = _EXPRESSION_ID.sub("", line.lstrip(" :+-'"))
        if _STATEFUL.match(node):
            nodes.append(_WATERMARK_DELAY.sub("", node) if node.startswith("EventTimeWatermark") else node)
    return nodes


def require_direct_join(frame: DataFrame, pipeline: str, query: str) -> None:
    """Refuse a batch frame whose plan scans a Cassandra table instead of joining it by key, as it is.

    A direct join needs equality on all partition-key columns with equal types (connector docs, "Direct Join"): a cast
    of the table's column becomes a scan of the whole table in every batch; a cast of the other side is joined directly,
    but a value that cannot be cast is a null key, which Cassandra refuses: one such record would end every batch.
    """
    plan = frame._jdf.queryExecution().executedPlan().toString()
    if any("cast(" in keys for keys in _DIRECT_JOIN_KEYS.findall(plan)):
        raise HeadraceError(
            f"{pipeline}.{query} joins its Cassandra dimension by a key of another type, and a value that does not fit "
            "would end the stream: give the column the same type in the source and in the table.",
            exit_code=Exit.REFUSED,
        )
    if "Cassandra Direct Join" in plan and "CassandraScan" not in plan and "Cassandra Scan" not in plan:
        return
    raise HeadraceError(
        f"{pipeline}.{query} would scan its Cassandra dimension in every batch instead of joining it by key: join on all "
        "columns of the table's partition key, with the same types as in the table.",
        exit_code=Exit.REFUSED,
    )
