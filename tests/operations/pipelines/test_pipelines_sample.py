"""What a sample of records says of a source: columns, types, required, paths; and that the decoder takes every record."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contract.model import Source, SourceColumn
from headrace.driver.decode import make_decoder
from headrace.errors import HeadraceError
from headrace.operations.pipelines.sample import MOST_RECORDS, SampledColumn, columns_of
from tests.driver.decode_data import reasons


def lines(*records: Any) -> list[bytes]:
    return [json.dumps(record).encode() for record in records]


def kinds(*values: Any) -> str:
    (column,) = columns_of(lines(*({"a": value} for value in values)))
    return column.type


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["x", "y"], "string"),
        ([True, False], "boolean"),
        ([1, -5], "long"),
        ([2**63], "decimal(21,0)"),
        ([1.5, 7], "decimal(12,2)"),
        ([123456789.125], "decimal(14,3)"),
        ([1e20], "decimal(23,0)"),
        (["2026-03-01T10:00:00Z", "2026-03-01 10:00:00.5"], "timestamp"),
        (["2026-03-01"], "date"),
        (["2026-03-01", "2026-03-01 10:00:00"], "string"),
        (["12.50"], "string"),
        ([1, "x"], "json"),
        ([[1]], "json"),
        ([{}], "json"),
        ([None], "string"),
    ],
)
def test_a_type_fits_all_values(values: list[Any], kind: str) -> None:
    assert kinds(*values) == kind


def test_a_column_is_required_where_every_record_has_it() -> None:
    columns = columns_of(lines({"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": 3, "c": True}))
    assert columns == [
        SampledColumn("a", "long", required=True),
        SampledColumn("b", "string"),
        SampledColumn("c", "boolean"),
    ]


def test_nested_fields_become_columns_with_a_path_and_every_name_is_free() -> None:
    record = {
        "id": 1,
        "buyer": {"id": "b", "homeTown": "x"},
        "class": "y",
        "_x": 1,
        "2nd": 1,
        "a.b": 1,
        "source": "s",
        "on": 1,
    }
    column_paths = {column.name: column.path for column in columns_of(lines(record))}
    assert column_paths == {
        "id": (),
        "buyer_id": ("buyer", "id"),
        "home_town": ("buyer", "homeTown"),
        "f_class": ("class",),
        "x": ("_x",),
        "f_2nd": ("2nd",),
        "a_b": ("a.b",),
        "source": (),
        "f_on": ("on",),
    }


def test_an_object_that_is_null_in_one_record_hides_none_of_its_fields() -> None:
    columns = columns_of(lines({"a": None}, {"a": {"b": 1}}, {"a": {}}))
    assert columns == [SampledColumn("b", "long", path=("a", "b"))]


def test_lines_that_are_no_objects_are_passed_over_and_none_at_all_is_refused() -> None:
    assert columns_of([b"", b"no", b"[1]", b'{"a": 1}'])[0].required
    with pytest.raises(HeadraceError, match="has no record that is a JSON object"):
        columns_of([b"no", b"3"])


def test_a_sample_is_bounded() -> None:
    records = [*lines(*({"a": 1} for _ in range(MOST_RECORDS))), b'{"b": 1}']
    assert [column.name for column in columns_of(iter(records))] == ["a"]


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.decimals(-1000, 1000, places=3, allow_nan=False).map(float),
    st.text(max_size=5),
    st.dates().map(str),
    st.datetimes().map(lambda at: at.replace(microsecond=0, year=2026).isoformat() + "Z"),
    st.lists(st.integers(), max_size=2),
)


@given(
    st.lists(st.fixed_dictionaries({"k": st.text("abc", min_size=1)}, optional={"a": VALUES, "b": VALUES}), min_size=1)
)
def test_the_decoder_takes_every_record_that_the_columns_come_from(records: list[dict[str, Any]]) -> None:
    sampled = columns_of(lines(*records))
    columns = {
        column.name: SourceColumn(type=column.type, required=column.required, field=list(column.path) or None)
        for column in sampled
    }
    source = Source(key="k", columns=columns)
    assert set(reasons(make_decoder(source), lines(*records))) == {None}


def test_a_decimal_has_room_for_larger_values_than_the_sample_has() -> None:
    assert kinds(0.5) == "decimal(12,2)"
    assert Decimal("9999999999.99") < 10**10
