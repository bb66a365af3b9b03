"""What Spark's plan says: the stateful part for the fingerprint, and whether a dimension is joined directly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any

from pyspark.sql import DataFrame

from headrace.contract.exits import Exit
from headrace.errors import HeadraceError

_STATEFUL = re.compile(
    r"\b(Aggregate|Join|Deduplicate|DeduplicateWithinWatermark|EventTimeWatermark|FlatMapGroupsWithState)\b"
)
# A column with a watermark carries its delay behind its id (`#12-T600000ms`): that it has one stays, the delay goes.
_EXPRESSION_ID = re.compile(r"#\d+L?|(?<=-T)\d+ms")
_WATERMARK_DELAY = re.compile(r", [^,]*$")
_ATTRIBUTE = re.compile(r"\b(\w+)#(\d+)L?(?:-T\d+ms)?")
_DEFINITION = re.compile(r"^(.*) AS \w+#(\d+)L?(?:-T\d+ms)?$", re.DOTALL)
_SHOWN = 200  # characters of an expression; a longer one ends in its hash
SOURCE = "headrace_source"
"""The alias under which a transform gets a source: what is below it is the runtime's, not the transform's."""

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


def state_inputs(frame: DataFrame) -> dict[str, str]:
    """Return what the columns of a plan's stateful nodes are made of: name -> expression over the source's columns.

    A key or a sum that is computed in another way under the same name passes Spark's own check, and mixes in one state
    what does not belong together. Expression ids and watermark delays are left out, renames and filters do not count.
    """
    lines = own_lines(frame)
    made: dict[str, str] = {}
    for line in lines:
        made |= _definitions(line)
    found: dict[str, str] = {}
    for line in lines:
        if not _STATEFUL.match(line):
            continue
        for name, number in _ATTRIBUTE.findall(line):
            text = _EXPRESSION_ID.sub("", _expanded(f"{name}#{number}", made, frozenset()))
            if text != name:
                found[_free(found, name, text)] = text
    return {name: _short(text) for name, text in sorted(found.items())}


def own_lines(frame: DataFrame) -> list[str]:
    """Return the nodes of a frame's analysed plan that the transform made, outermost first, one line each."""
    return list(_own_lines(frame._jdf.queryExecution().analyzed().toString()))


def expanded(text: str, lines: list[str]) -> str:
    """Return an expression of a plan's node with every column that the transform made replaced by what it is made of."""
    made: dict[str, str] = {}
    for line in lines:
        made |= _definitions(line)
    return _expanded(text, made, frozenset())


def columns_read(frame: DataFrame, names: Collection[str]) -> set[str]:
    """Return which of these columns of its sources a streaming frame still reads when Spark has optimised its plan.

    A column that Spark prunes at the source is in no state. A join keeps every column of both sides that reaches it.
    """
    execution = frame._jdf.queryExecution()
    known = {
        attribute: attribute.partition("#")[0]
        for node in _nodes(execution.analyzed())
        if node.nodeName() == "SubqueryAlias" and node.alias() == SOURCE
        for attribute in _attributes(node.output())
        if attribute.partition("#")[0] in names
    }
    # Not `optimizedPlan`: it refuses a stream that is not started.
    optimised = frame.sparkSession._jsparkSession.sessionState().optimizer().execute(execution.analyzed())
    read = set()
    for node in _nodes(optimised):
        read |= _attributes(node.references())
        if _STATEFUL.match(node.nodeName()) and node.nodeName() != "Aggregate":
            read |= {attribute for child in _children(node) for attribute in _attributes(child.output())}
    return {name for attribute, name in known.items() if attribute in read}


def _nodes(node: Any) -> Iterator[Any]:  # noqa: ANN401 - Java objects
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: Any) -> list[Any]:  # noqa: ANN401
    children = node.children()
    return [children.apply(index) for index in range(children.size())]


def _attributes(found: Any) -> set[str]:  # noqa: ANN401
    """Return the attributes of a Scala collection as name#id."""
    return {f"{name}#{number}" for name, number in _ATTRIBUTE.findall(found.mkString(" "))}


def _own_lines(text: str) -> Iterator[str]:
    """Yield the nodes of an analysed plan that the transform made: what is below a source's alias is left out."""
    below: int | None = None
    for line in text.splitlines():
        node = line.lstrip(" :+-'")
        depth = len(line) - len(node)
        if below is not None and depth > below:
            continue
        below = depth if node.startswith(f"SubqueryAlias {SOURCE}") else None
        yield node


def _definitions(line: str) -> dict[str, str]:
    """Return expression id -> the text that a Project, Aggregate or Expand makes it of."""
    if not line.startswith(("Project", "Aggregate", "Expand", "Generate", "Window")):
        return {}
    lists = lists_of(line)
    if line.startswith("Expand") and len(lists) >= 2:
        # one expression a row that comes out, given by place: all of them together make the column
        return {number: lists[0] for _, number in _ATTRIBUTE.findall(lists[1]) if f"#{number}" not in lists[0]}
    entries = (entry for part in lists for entry in split_of(part))
    return {match[2]: match[1] for match in map(_DEFINITION.match, entries) if match}


def lists_of(text: str) -> list[str]:
    """Return what is inside the outermost brackets of a node's text."""
    found, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign == "[":
            depth += 1
            start = place + 1 if depth == 1 else start
        elif sign == "]":
            depth -= 1
            if depth == 0:
                found.append(text[start:place])
    return found


def split_of(text: str) -> list[str]:
    """Split at the commas that are inside no bracket."""
    found, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            found.append(text[start:place].strip())
            start = place + 1
    return [*found, text[start:].strip()]


def _expanded(text: str, made: dict[str, str], seen: frozenset[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        number = match[2]
        if number in seen or number not in made:
            return match[1]
        return _expanded(made[number], made, seen | {number})

    return _ATTRIBUTE.sub(replace, text)


def _free(found: dict[str, str], name: str, text: str) -> str:
    """Return the name, or the name with a number where another expression has it: both sides of a join may."""
    count = 1
    while found.get(name if count == 1 else f"{name} {count}", text) != text:
        count += 1
    return name if count == 1 else f"{name} {count}"


def _short(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... sha256 {hashlib.sha256(text.encode()).hexdigest()}"


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
