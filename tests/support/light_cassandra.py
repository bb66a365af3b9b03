"""A dimension's table and the leases in memory, for tests of a refresh without a JVM: cells with write times.

It returns days as `cassandra.util.Date` and times without a zone, as the driver does, and knows a refresh's statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.util import Date

from headrace.operations.dimensions import apply, lease, live

Row = dict[str, tuple[Any, int]]


class LightCassandra:
    """One table. `rows` is key -> column -> (value, write time in microseconds)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[tuple[Any, ...], Row] = {}
        self.leases: dict[str, dict[str, str]] = {}
        self.cluster = SimpleNamespace(metadata=SimpleNamespace(keyspaces={}, all_hosts=lambda: [1]))

        @contextmanager
        def session(_: Path) -> Iterator[LightCassandra]:
            yield self

        for module in (apply, live):
            monkeypatch.setattr(module, "cassandra_session", session)
            monkeypatch.setattr(module, "execute_concurrent_with_args", self._many)
        monkeypatch.setattr(lease, "_serial", self._serial)

    def prepare(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(text=text)

    def execute(self, text: str) -> None:
        assert text.startswith("CREATE")

    def values(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {key: {name: value for name, (value, _) in row.items()} for key, row in self.rows.items()}

    def _many(
        self, _: object, statement: SimpleNamespace, values: Sequence[tuple[Any, ...]], **__: object
    ) -> list[tuple[bool, list[Any]]]:
        text = statement.text
        if text.startswith("SELECT"):
            names = re.findall(r'"(\w+)"', text.split(" FROM ")[0].split("writetime")[0])
            width = len(re.findall(r'"(\w+)"', text.split("token(")[1].split(")")[0]))
            rows = [
                (*map(_driver, key), *(_driver(row.get(name, (None, 0))[0]) for name in names[width:]),
                 *(row[name][1] if name in row else None for name in names[width:]))
                for key, row in self.rows.items()
            ]  # fmt: skip
            return [(True, rows)]
        micros = int(re.search(r"USING TIMESTAMP (\d+)", text)[1])  # type: ignore[index]
        for key in values:
            if text.startswith("DELETE"):
                row = self.rows.get(key, {})
                self.rows[key] = {name: cell for name, cell in row.items() if cell[1] > micros}
                if not self.rows[key]:
                    self.rows.pop(key)
                continue
            names = re.findall(r'"(\w+)"', text[text.index("(") :])
            self._insert(names, key, micros)
        return []

    def _insert(self, names: list[str], values: tuple[Any, ...], micros: int) -> None:
        width = self.width
        row = self.rows.setdefault(values[:width], {})
        for name, value in zip(names[width:], values[width:], strict=True):
            if micros >= row.get(name, (None, -1))[1]:
                row[name] = (value, micros)

    width = 1

    def _serial(self, _: object, text: str, values: tuple[str, ...]) -> dict[str, Any]:
        if text.startswith("INSERT"):
            there = self.leases.get(values[0])
            if there:
                return {"[applied]": False} | there
            self.leases[values[0]] = {"holder": values[1], "taken_by": values[2], "since": values[3]}
            return {"[applied]": True}
        name, holder = values[-2], values[-1]
        mine = self.leases.get(name, {}).get("holder") == holder
        if mine and text.startswith("DELETE"):
            del self.leases[name]
        return {"[applied]": mine}


def _driver(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None)
    return Date(value) if isinstance(value, date) else value
