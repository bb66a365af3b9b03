"""What the Streams page shows of quality, from files alone: the trend, the Data Docs, nothing that a record could smuggle in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headrace.contract.load import load_pipelines
from headrace.errors import HeadraceError
from headrace.operations.quality import docs, store
from headrace.operations.quality.plan import Check
from headrace.operations.quality.suites import suite_of
from headrace.operations.quality.summary import Failure, Summary, failures, status_of
from headrace.operations.quality.validate import validate
from headrace.operations.quality.windows import StageVersion
from headrace.orchestration import page, page_quality
from headrace.store import paths, small_files
from tests.support.expectations import import_great_expectations

PIPELINE, SINK = "user_logins", "stage.user_logins.users"
EVIL = '</td></div> <script>alert(1)</script><a href="https://evil.test">x</a>'
AT_MS = 1_795_435_984_547


def summary(at_ms: int, status: Any = "PASSED", window: str = "version 1", **more: Any) -> Summary:
    return Summary(SINK, PIPELINE, "users", status, StageVersion(name=window), at_ms, **more)


def remember(root: Path, *summaries: Summary) -> None:
    for number, checked in enumerate(summaries):
        path = f"{root}/report-{number}.json"
        store.write_report(str(root), replace(checked, report=path), {"results": []})


def shown(root: Path, project: Path) -> dict[str, page_quality.SinkChecks]:
    pipeline = load_pipelines(project / "pipelines")[PIPELINE]
    return {history.sink: history for history in page_quality.checks(str(root), pipeline)}


def test_the_newest_checks_of_a_sink_are_shown_oldest_first_and_a_repeated_one_once(
    tmp_path: Path, project: Path
) -> None:
    failed = Failure(expectation="not_be_null(user_name)", severity="critical")
    remember(tmp_path, summary(2000, "WARNED"), summary(1000), summary(3000, "FAILED", failed=(failed,)), summary(2000))
    history = shown(tmp_path, project)[SINK]
    assert [(check.checked_at_ms, check.status) for check in history.checks] == [
        (1000, "PASSED"),
        (2000, "PASSED"),
        (3000, "FAILED"),
    ]
    assert history.newest
    assert history.newest.failed == ("not_be_null(user_name) (critical)",)


def test_the_file_of_the_trend_does_not_grow_without_end(tmp_path: Path, project: Path) -> None:
    remember(tmp_path, *(summary(at) for at in range(store.REPORTS_KEPT + 5)))
    kept = small_files.read_json(paths.quality_trend(str(tmp_path), SINK))
    assert [point["checked_at_ms"] for point in kept or []] == list(range(store.REPORTS_KEPT + 4, 4, -1))
    assert len(shown(tmp_path, project)[SINK].checks) == page_quality.SHOWN


@pytest.mark.parametrize("content", ["{", "[1]", '[{"window": "w"}]', '{"a": 1}', "7"])
def test_a_trend_that_cannot_be_read_says_why_hides_no_other_and_stops_no_check(
    tmp_path: Path, project: Path, content: str
) -> None:
    small_files.write_text(paths.quality_trend(str(tmp_path), SINK), content)
    histories = shown(tmp_path, project)
    assert str(histories[SINK].reason).startswith("trend not available: ")
    assert {history.reason for sink, history in histories.items() if sink != SINK} == {None}
    remember(tmp_path, summary(1000))
    newest = shown(tmp_path, project)[SINK].newest
    assert newest
    assert newest.status == "PASSED"


@pytest.mark.parametrize(
    "place",
    ["../../latest/x.json", "validations/../../../secret.html", "validations/.hidden/a.html", "/etc/passwd", "index.html",
     "validations//a.html", "validations/%2e%2e/a.html", "validations\\..\\a.html", "validations/a.html\n", "static/x.css", ""],
)  # fmt: skip
def test_only_pages_of_the_data_docs_are_read(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "read_text", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(HeadraceError, match="Unknown page"):
        page_quality.data_docs(str(tmp_path), place)


def test_a_page_that_was_not_built_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="`headrace quality docs`, builds them"):
        page_quality.data_docs(str(tmp_path), docs.page_of(SINK, "version 1", AT_MS))


def test_of_a_page_only_the_sections_are_shown_and_nothing_that_acts(tmp_path: Path) -> None:
    place = "validations/a/b.html"
    section = (
        '<section class="ge-section"><h5 onclick="x()" style="x">Title</h5><i class="fas fa-times"></i>failed'
        '<a href="../c.html">in</a><a href="//evil.test">out</a><a href="javascript:x()">act</a><img src="x">'
        "<script>steal()</script><style>a{}</style><svg><a>drawn</a></svg>&lt;b&gt;</section>"
    )
    text = f"<html><script>steal()</script><nav>menu</nav>{section}<footer>subscribe</footer></html>"
    small_files.write_text(f"{paths.quality_docs(str(tmp_path))}/{place}", text)
    html = page_quality.data_docs(str(tmp_path), place)
    assert html == '<h5>Title</h5>✘ failed<a href="../c.html">in</a><a>out</a><a>act</a>&lt;b&gt;'


def test_the_page_of_a_check_is_the_one_that_great_expectations_builds_and_values_are_text(
    tmp_path: Path, project: Path
) -> None:
    import_great_expectations()
    frame = pd.DataFrame({"login_id": [EVIL, "b"], "user_name": ["a", None]})
    check = Check(SINK, PIPELINE, "users", StageVersion(name="version 1"), {"rows_min": 1, "now_ms": AT_MS})
    suite = suite_of(load_pipelines(project / "pipelines")[PIPELINE], SINK)
    outcomes, result = validate(suite, frame, ("login_id",), check.parameters)
    report = store.report_path(str(tmp_path), check)
    checked = summary(AT_MS, status_of(outcomes), failed=failures(outcomes), report=report)
    store.write_report(str(tmp_path), checked, result)
    gone = f"{paths.quality_docs(str(tmp_path))}/{docs.page_of(SINK, 'version 0', AT_MS - 1)}"
    small_files.write_text(gone, "the page of a report that is kept no longer")
    docs.build(str(tmp_path), [suite])
    assert small_files.read_text(gone) is None
    newest = shown(tmp_path, project)[SINK].newest
    assert newest
    built = small_files.read_text(f"{paths.quality_docs(str(tmp_path))}/{newest.page}") or ""
    assert "alert(1)" in built
    assert "<script>alert" not in built
    html = page_quality.data_docs(str(tmp_path), newest.page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert 'href="http' not in html
    assert html.count("✘") >= 2
    assert html.count("✔") >= 2
    assert "<h5>" in page.render("docs.html", title="Data Docs", nonce="n", text=html, up="../")
    assert newest.status == "FAILED"
