from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.contract.files import pipeline_names
from headrace.contract.load import load_pipeline, load_pipelines, read_folder
from headrace.contract.model import Pipeline, format_duration, parse_duration
from headrace.errors import HeadraceError
from tests.contract.conftest import HERE, ROOT, changed, refusal


def test_all_pipelines_load_sorted_by_name(pipelines: dict[str, Pipeline]) -> None:
    assert list(pipelines) == sorted(pipeline_names(ROOT / "pipelines"))


def test_a_loaded_pipeline_written_out_and_loaded_again_is_the_same(
    pipelines: dict[str, Pipeline], good: Pipeline
) -> None:
    for pipeline in (*pipelines.values(), good):
        assert Pipeline.model_validate(pipeline.model_dump(mode="json", exclude_unset=True)) == pipeline


def test_a_loaded_pipeline_cannot_change(good: Pipeline) -> None:
    with pytest.raises(ValueError, match="frozen"):
        good.version = 2  # type: ignore[misc]


def test_a_query_defined_twice_is_refused_because_two_would_share_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    text = (HERE / "good.yaml").read_text()
    path.write_text(text + text[text.index("  copied:") : text.index("  totals:")])
    said = refusal(path)
    line = path.read_text().rindex("copied:")
    number = path.read_text()[:line].count("\n") + 1
    assert said == (
        f"{path}, line {number}: the key 'copied' appears twice: the second value would silently replace the first, and "
        "two queries with one name would share a checkpoint; rename or remove one."
    )


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: {b: 1, b: 2}\n", "- {x: 1, x: 1}\n"])
def test_a_key_written_twice_is_refused_at_any_depth(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert "appears twice" in refusal(path)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    text = (HERE / "good.yaml").read_text()
    path.write_text(text.replace("columns: *window", "columns: {<<: *window, note: {type: long}}"))
    assert load_pipeline(path).queries["finals"].columns["note"].type == "long"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file: Input should be a valid dictionary"),
        ("[1, 2]", "the file: Input should be a valid dictionary"),
        ("a: [1\nb: 2", "line 2: "),
        ("a: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor"),
        ("? [1, 2]\n: 3", "line 1: a key is a list or a mapping; write a plain string."),
    ],
)
def test_what_is_no_pipeline_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert said in refusal(path)


def test_a_file_that_is_not_utf_8_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert "It must be a readable UTF-8 text file" in refusal(path)


def test_a_missing_file_names_its_near_match() -> None:
    assert refusal(ROOT / "pipelines" / "pos_sale.yaml").endswith("Did you mean pos_sales.yaml?")


def test_a_link_to_a_missing_file_is_refused_as_a_link_and_not_with_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "lost.yaml"
    path.symlink_to("gone.yaml")
    assert refusal(path) == f"{path} links to gone.yaml, which does not exist. Correct or remove the link."
    with pytest.raises(HeadraceError, match=r"lost\.yaml links to gone\.yaml"):
        load_pipelines(tmp_path)


def test_a_folder_without_pipelines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="No pipeline file"):
        load_pipelines(tmp_path)


def test_a_yml_file_is_refused_rather_than_overlooked(tmp_path: Path) -> None:
    (tmp_path / "good.yml").write_text((HERE / "good.yaml").read_text())
    with pytest.raises(HeadraceError, match=r"Rename it to good\.yaml"):
        load_pipelines(tmp_path)


def test_all_files_of_a_folder_are_checked_before_anything_is_said(broken: Callable[..., Path]) -> None:
    folder = broken({"owner": "<gone>", "name": "a"}, "a").parent
    broken({"version": 0, "name": "b"}, "b")
    with pytest.raises(HeadraceError) as caught:
        load_pipelines(folder)
    assert [Path(line.split(":")[0]).name for line in str(caught.value).splitlines()] == ["a.yaml", "b.yaml"]


def test_two_pipelines_cannot_own_one_topic_or_table(broken: Callable[..., Path]) -> None:
    folder = broken({}).parent
    broken({"name": "other"}, "other")
    with pytest.raises(HeadraceError) as caught:
        load_pipelines(folder)
    said = str(caught.value)
    assert "other and good both own topic sales: only one pipeline may read, archive or write it" in said
    assert "other and good both own topic copies" in said
    assert "other and good both own table directory.shops" in said
    assert "good.totals" not in said


@given(st.integers(min_value=0, max_value=10**13))
def test_a_duration_written_out_and_read_again_is_the_same(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "written"),
    [("60 seconds", "1 minute"), ("90 minutes", "90 minutes"), ("0 days", "0 seconds"), ("24 hours", "1 day"),
     ("1500 milliseconds", "1500 milliseconds")],
)  # fmt: skip
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(text: str, written: str) -> None:
    assert format_duration(parse_duration(text)) == written


@given(st.text(max_size=12) | st.integers() | st.none() | st.floats() | st.booleans())
def test_what_is_no_duration_is_refused(value: Any) -> None:
    try:
        parse_duration(value)
    except ValueError as error:
        assert "is not a duration" in str(error)  # noqa: PT017 - most values are refused, a few are durations
    else:
        assert re.fullmatch(r"\d+ (millisecond|second|minute|hour|day)s?", str(value))


# Values that a confused hand may write anywhere: none of them may escape as anything but a refusal.
_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["sales", "shop", "1 day"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def _places(value: Any, key: str = "") -> list[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    places = [f"{key}.{name}".lstrip(".") for name, _ in inner]
    return places + [place for name, below in inner for place in _places(below, f"{key}.{name}")]


def test_a_control_character_in_a_key_does_not_break_the_sentence(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(changed({"sources.sales": {"\r": None}})))
    with pytest.raises(HeadraceError, match=r"sources\.sales\.\\r: unknown key") as refused:
        load_pipeline(path)
    assert all(line.startswith(str(path)) for line in str(refused.value).splitlines())


@given(data=st.data())
def test_any_change_of_a_good_file_gives_a_pipeline_or_a_refusal(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = data.draw(st.sampled_from([place for place in _places(changed({})) if "." in place]))
    path = tmp_path_factory.getbasetemp() / "good.yaml"
    path.write_text(yaml.safe_dump(changed({place: data.draw(_junk)})))
    try:
        assert load_pipeline(path).name == "good"
    except HeadraceError as error:
        assert all(line.startswith(str(path)) for line in str(error).splitlines())  # noqa: PT017 - either is right


LEFTOVERS = (
    "._good.yaml", ".good.yaml.swp", "#good.yaml#", "good.yaml~", "good.yaml.bak", "~$good.yaml", "~good.yaml",
    "#good.yaml", "good.yaml.orig",
)  # fmt: skip


def test_what_editors_and_a_mac_leave_beside_a_pipeline_file_is_not_read(broken: Callable[..., Path]) -> None:
    folder = broken({}).parent
    (folder / ".#good.yaml").symlink_to("ada@laptop.4711:1764400000")
    for name in LEFTOVERS:
        (folder / name).write_bytes(b"\x00\x05\x16\x07\xff")
    assert pipeline_names(folder) == ["good"]
    assert list(load_pipelines(folder)) == ["good"]


def test_a_broken_file_stops_its_own_pipeline_and_no_other(broken: Callable[..., Path]) -> None:
    folder = broken({}).parent
    (folder / "other.yaml").write_bytes(b"name: \xff")
    (folder / "third.yaml").symlink_to("nowhere")
    (folder / "fourth.yml").write_text("name: fourth\n")
    folder_read = read_folder(folder)
    assert folder_read.pipeline("good") == load_pipeline(folder / "good.yaml")
    assert list(folder_read.pipelines) == ["good"]
    assert sorted(folder_read.broken) == ["fourth", "other", "third"]
    with pytest.raises(HeadraceError, match=r"other\.yaml cannot be read"):
        folder_read.pipeline("other")
    with pytest.raises(HeadraceError, match=r"Unknown pipeline 'fifth'\. Known pipelines: good"):
        folder_read.pipeline("fifth")


def test_pipelines_that_clash_load_but_neither_may_start(broken: Callable[..., Path]) -> None:
    folder = broken({}).parent
    broken({"name": "other"}, "other")
    folder_read = read_folder(folder)
    assert set(folder_read.pipelines) == {"good", "other"}
    for name in ("good", "other"):
        assert folder_read.pipeline(name).name == name
        with pytest.raises(HeadraceError, match="both own topic sales"):
            folder_read.startable(name)
