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
    """Refuse a batch frame whose plan scans a Cassandra table instead of joining it by key.

    A direct join needs equality on all partition-key columns with equal types (connector docs, "Direct Join"): an int
    compared with a text column silently becomes a scan of the whole table in every batch.
    """
    plan = frame._jdf.queryExecution().executedPlan().toString()
    if "Cassandra Direct Join" in plan and "CassandraScan" not in plan and "Cassandra Scan" not in plan:
        return
    raise HeadraceError(
        f"{pipeline}.{query} would scan its Cassandra dimension in every batch instead of joining it by key: join on all "
        "columns of the table's partition key, with the same types as in the table.",
        exit_code=Exit.REFUSED,
    )
