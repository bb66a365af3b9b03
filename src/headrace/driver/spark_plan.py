"""Facts from Spark's plan: the stateful part for the fingerprint, and whether a dimension is joined directly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pyspark.sql import DataFrame

from headrace.contract.exit_codes import Exit
from headrace.contract.platform_columns import OLD_NAMES
from headrace.errors import HeadraceError

_STATEFUL = re.compile(
    r"\b(Aggregate|Join|Deduplicate|DeduplicateWithinWatermark|EventTimeWatermark|FlatMapGroupsWithState)\b"
)
_KEEP_STATE = {
    *("Aggregate", "Distinct", "Deduplicate", "DeduplicateWithinWatermark", "FlatMapGroupsWithState"),
    *("FlatMapGroupsInPandasWithState", "GlobalLimit", "LocalLimit"),
}
# A watermarked column carries its delay behind its id (`#12-T600000ms`). The watermark is kept, the delay is removed.
_EXPRESSION_ID = re.compile(r"#\d+L?|(?<=-T)\d+ms")
_WATERMARK_DELAY = re.compile(r", [^,]*$")
_ATTRIBUTE = re.compile(r"\b(\w+)#(\d+)L?(?:-T\d+ms)?")
_DEFINITION = re.compile(r"^(.*) AS \w+#(\d+)L?(?:-T\d+ms)?$", re.DOTALL)
COLUMNS = 10_000
"""Columns of a node's text, which Spark would cut otherwise."""
_SHOWN = 200  # characters of an expression; a longer one is cut and ends in its hash
SOURCE = "headrace_input"
"""The alias of a source inside a transform: plan nodes below it belong to the runtime, not to the transform.

It is no column's name: Spark would take `headrace_source.topic` for column topic of a source with this alias.
"""

_DIRECT_JOIN_KEYS = re.compile(r"Cassandra Direct Join \[(.*?)\]")


def stateful_nodes(frame: DataFrame) -> list[str]:
    """Return the stateful nodes of a streaming frame's analysed plan, outermost first, without expression ids.

    A watermark's delay is left out: Spark allows it to change on an existing checkpoint.
    """
    nodes = []
    for line in _recorded(frame).splitlines():
        node = _EXPRESSION_ID.sub("", line.lstrip(" :+-'"))
        if _STATEFUL.match(node):
            nodes.append(_WATERMARK_DELAY.sub("", node) if node.startswith("EventTimeWatermark") else node)
    return nodes


def keeps_state(frame: DataFrame) -> bool:
    """Return whether Spark keeps state for a streaming frame. A join with a table keeps none."""
    for node in nodes_of(frame._jdf.queryExecution().analyzed()):
        name = node.getClass().getSimpleName()
        if name in _KEEP_STATE and node.isStreaming():
            return True
        if name == "Join" and all(side.isStreaming() for side in children_of(node)):
            return True
    return False


def state_inputs(frame: DataFrame) -> dict[str, str]:
    """Return how the columns of a plan's stateful nodes are computed: name -> expression over the source's columns.

    A key or a sum that is computed differently under the same name passes Spark's own check, and would mix incompatible
    values in one state. Expression ids and watermark delays are left out; renames and filters do not count.
    """
    lines = list(_transform_lines(_recorded(frame)))
    made: dict[str, str] = {}
    for line in lines:
        made |= _definitions(line)
    inputs: dict[str, str] = {}
    for line in lines:
        if not _STATEFUL.match(line):
            continue
        for name, number in _ATTRIBUTE.findall(line):
            text = _EXPRESSION_ID.sub("", _expanded(f"{name}#{number}", made, frozenset()))
            if text != name:
                inputs[_free(inputs, name, text)] = text
    return {name: _short(text) for name, text in sorted(inputs.items())}


def transform_lines(frame: DataFrame) -> list[str]:
    """Return the nodes of a frame's analysed plan that the transform made, outermost first, one line each."""
    return list(_transform_lines(frame._jdf.queryExecution().analyzed().toString()))


def expanded(text: str, lines: list[str]) -> str:
    """Return an expression of a plan node with every column that the transform made replaced by its definition."""
    made: dict[str, str] = {}
    for line in lines:
        made |= _definitions(line)
    return _expanded(text, made, frozenset())


def columns_read(frame: DataFrame, names: Collection[str]) -> set[str]:
    """Return which of these source columns a streaming frame still reads after Spark has optimised its plan.

    A column that Spark prunes at the source is in no state. A join keeps all columns of both sides that reach it.
    """
    execution = frame._jdf.queryExecution()
    known = {
        attribute: attribute.partition("#")[0]
        for node in nodes_of(execution.analyzed())
        if node.nodeName() == "SubqueryAlias" and node.alias() == SOURCE
        for attribute in attributes_of(node.output())
        if attribute.partition("#")[0] in names
    }
    # Not `optimizedPlan`: it refuses a stream that has not started.
    optimised = frame.sparkSession._jsparkSession.sessionState().optimizer().execute(execution.analyzed())
    read = set()
    for node in nodes_of(optimised):
        read |= attributes_of(node.references())
        if _STATEFUL.match(node.nodeName()) and node.nodeName() != "Aggregate":
            read |= {attribute for child in children_of(node) for attribute in attributes_of(child.output())}
    return {name for attribute, name in known.items() if attribute in read}


def _recorded(frame: DataFrame) -> str:
    """Return a frame's analysed plan with the names of the platform's columns that checkpoints of older releases record.

    A column keeps its new name if a source declares one with the old name: such a checkpoint is of a later release.
    """
    analysed = frame._jdf.queryExecution().analyzed()
    text = str(analysed.toString())
    sources = (node for node in nodes_of(analysed) if node.nodeName() == "SubqueryAlias" and node.alias() == SOURCE)
    declared = {attribute.partition("#")[0] for node in sources for attribute in attributes_of(node.output())}
    for name, old in OLD_NAMES.items():
        if old not in declared:
            text = re.sub(rf"\b{name}\b", old, text)
    return text


def nodes_of(node: Any) -> Iterator[Any]:  # noqa: ANN401 - Java objects
    """Yield a plan's nodes, outermost first."""
    yield node
    for child in children_of(node):
        yield from nodes_of(child)


def children_of(node: Any) -> list[Any]:  # noqa: ANN401
    """Return the children of a plan's node, or of an expression."""
    children = node.children()
    return [children.apply(index) for index in range(children.size())]


def attributes_of(collection: Any) -> set[str]:  # noqa: ANN401
    """Return the attributes of a Scala collection as name#id."""
    return {f"{name}#{number}" for name, number in _ATTRIBUTE.findall(collection.mkString(" "))}


def _transform_lines(text: str) -> Iterator[str]:
    """Yield the nodes of an analysed plan that the transform made, excluding those below a source's alias."""
    below: int | None = None
    for line in text.splitlines():
        node = line.lstrip(" :+-'")
        depth = len(line) - len(node)
        if below is not None and depth > below:
            continue
        below = depth if node.startswith(f"SubqueryAlias {SOURCE}") else None
        yield node


def _definitions(line: str) -> dict[str, str]:
    """Return expression id -> the text from which a Project, Aggregate or Expand computes it."""
    if not line.startswith(("Project", "Aggregate", "Expand", "Generate", "Window")):
        return {}
    lists = lists_of(line)
    if line.startswith("Expand") and len(lists) >= 2:
        # one expression per output row, by position: all of them together define the column
        return {number: lists[0] for _, number in _ATTRIBUTE.findall(lists[1]) if f"#{number}" not in lists[0]}
    entries = (entry for part in lists for entry in split_of(part))
    return {match[2]: match[1] for match in map(_DEFINITION.match, entries) if match}


def lists_of(text: str) -> list[str]:
    """Return the contents of the outermost brackets in a node's text."""
    lists, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign == "[":
            depth += 1
            start = place + 1 if depth == 1 else start
        elif sign == "]":
            depth -= 1
            if depth == 0:
                lists.append(text[start:place])
    return lists


def split_of(text: str) -> list[str]:
    """Split at commas that are outside of brackets."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _expanded(text: str, made: dict[str, str], visited: frozenset[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        number = match[2]
        if number in visited or number not in made:
            return match[1]
        return _expanded(made[number], made, visited | {number})

    return _ATTRIBUTE.sub(replace, text)


def _free(inputs: dict[str, str], name: str, text: str) -> str:
    """Return the name, with a number if another expression already has it, as on the two sides of a join."""
    count = 1
    while inputs.get(name if count == 1 else f"{name} {count}", text) != text:
        count += 1
    return name if count == 1 else f"{name} {count}"


def _short(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def require_direct_join(frame: DataFrame, pipeline: str, query: str) -> None:
    """Refuse a batch frame whose plan scans a Cassandra table, or casts its key, instead of joining directly.

    A direct join needs equality on all partition-key columns with equal types (connector docs, "Direct Join"). A cast of the
    table's column becomes a full table scan in every batch. A cast of the other side is joined directly, but a value that
    cannot be cast becomes a null key, which Cassandra refuses: one such record would end every batch.
    """
    more = next(_beside_the_key(frame._jdf.queryExecution()), None)
    if more:
        raise HeadraceError(
            f"{pipeline}.{query}: {more} in an outer join with a Cassandra dimension, and the connector applies it after the "
            "join: records without a match would be lost, or look matched. Join plain columns of the table by its key alone; "
            "do the rest with the result.",
            exit_code=Exit.REFUSED,
        )
    plan = frame._jdf.queryExecution().executedPlan().toString()
    if any("cast(" in keys for keys in _DIRECT_JOIN_KEYS.findall(plan)):
        raise HeadraceError(
            f"{pipeline}.{query} joins its Cassandra dimension by a key of another type, and a value that does not fit "
            "would end the stream. Give the column the same type in the source and in the table.",
            exit_code=Exit.REFUSED,
        )
    if "Cassandra Direct Join" in plan and "CassandraScan" not in plan and "Cassandra Scan" not in plan:
        return
    raise HeadraceError(
        f"{pipeline}.{query} would scan its Cassandra dimension in every batch instead of joining it by key. Join on all "
        "columns of the table's partition key, with the same types as in the table.",
        exit_code=Exit.REFUSED,
    )


def _outer_joins(plan: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - Java objects
    """Yield the outer joins of an analysed plan with a table, and the side of the table."""
    for join in nodes_of(plan):
        side = {"LeftOuter": 1, "RightOuter": 0}.get(str(join.joinType())) if join.nodeName() == "Join" else None
        table = children_of(join)[side] if side is not None else None
        if table is not None and any(node.nodeName() == "DataSourceV2Relation" for node in nodes_of(table)):
            yield join, table


def _beside_the_key(execution: Any) -> Iterator[str]:  # noqa: ANN401 - a Java object
    """Yield what outer joins with a table do besides comparing its key: the connector does it after the join."""
    for join, table in _outer_joins(execution.analyzed()):
        for node in nodes_of(table):
            if node.nodeName() == "Filter":
                yield "rows of the table are filtered"
            if any(not _ATTRIBUTE.fullmatch(text) for text in _definitions(node.simpleString(COLUMNS)).values()):
                yield "a column of the table is computed"
        output, condition = attributes_of(table.output()), join.condition()
        parts = conjuncts_of(condition.get()) if condition.isDefined() else []
        if not all(part.nodeName() == "EqualTo" and _compares(part, output) for part in parts):
            yield "more than the key is compared"
    for node in nodes_of(execution.executedPlan()):
        if (
            node.nodeName() == "CassandraDirectJoin"
            and node.otherJoinCouplets().nonEmpty()
            and "Outer" in str(node.joinType())
        ):
            yield "more than the key is compared"


def origin(attribute: str, lines: Iterable[str]) -> str:
    """Return the attribute (name#id) that one is below the nodes of these texts, which may rename it."""
    made: dict[str, str] = {}
    for line in lines:
        made |= _definitions(line)
    while match := _ATTRIBUTE.fullmatch(made.get(attribute.partition("#")[2], "")):
        attribute = f"{match[1]}#{match[2]}"
    return attribute


def conjuncts_of(condition: Any) -> list[Any]:  # noqa: ANN401
    """Return the expressions that a condition joins by AND."""
    return (
        [part for side in children_of(condition) for part in conjuncts_of(side)]
        if condition.nodeName() == "And"
        else [condition]
    )


def _compares(equality: Any, table: set[str]) -> bool:  # noqa: ANN401
    """Return whether one side of an equality reads only columns of the table, and the other only others."""
    one, other = (attributes_of(side.references()) for side in children_of(equality))
    return (
        bool(one and other) and {one <= table, other <= table} == {True, False} and not (one & table and other & table)
    )
