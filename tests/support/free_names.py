"""Names that a column may have and that mean something elsewhere: in our own source, in Spark, SQL and Cassandra."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.contract.model import NAME_PATTERN
from headrace.contract.platform_columns import OLD_NAMES, OWN_PREFIX

WORDS = """
value key raw topic partition offset timestamp headers window count at row rows order select from where group by true false
null not in and or as on left right join case when then end distinct all interval current_date current_user date year table
column primary token ttl writetime using batch begin apply static frozen counter index materialized to insert update delete
into set values json user role password day result word id matched
"""
SQL = re.compile(r'"([a-z][a-z0-9_]{0,47})"')


def pool(project: Path) -> list[str]:
    """Return the names that the contract lets through, in order."""
    sql_names = {name for path in (project / "src/headrace").rglob("*.py") for name in SQL.findall(path.read_text())}
    names = sql_names | set(WORDS.split()) | set(OLD_NAMES.values())
    names = {name for name in names if re.match(NAME_PATTERN, name) and not name.startswith(OWN_PREFIX)}
    return sorted(names - {"window_start", "window_end", "batch_id"})
