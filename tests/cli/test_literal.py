"""Data never acts: what a record, a file name or a table holds is shown literally by every command."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headrace.cli import app, common
from headrace.contract.wording import code_span, printable
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.batch import serve
from headrace.operations.dead_letters import reader
from headrace.operations.dead_letters.reader import Letter
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.streams import QueryRow
from headrace.store import paths, small_files
from tests.cli.conftest import use

# What a person must see of it, letter by letter.
NASTY = {
    "[/b]": "[/b]",
    "[red]x": "[red]x",
    "[link=https://evil.test]x[/link]": "[link=https://evil.test]x[/link]",
    ":boom:": ":boom:",
    "\x1b]0;title\x07\x1b[31mred": r"\x1b]0;title\x07\x1b[31mred",
    "\x1b[1A\x1b[2K": r"\x1b[1A\x1b[2K",
    "\x9b31m": r"\x9b31m",
    "a\r\nb\u2028c\x85d": r"a\r\nb\u2028c\x85d",
    "a\u202eb\u2066c\u200bd": r"a\u202eb\u2066c\u200bd",
    "a\0b\tc\x7fd": r"a\x00b\tc\x7fd",
    "\ud800": r"\ud800",
    "Zoë 가 🛒 =1+1": "Zoë 가 🛒 =1+1",
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The console of the commands, as on a terminal 300 columns wide, without colours."""
    shown = io.StringIO()
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for console in (common.console, common.errors):
        monkeypatch.setattr(console, "_file", shown)
        monkeypatch.setattr(console, "_width", 300)
    return shown


@pytest.fixture
def deployment(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.chdir(project)
    folders = {name: tmp_path / name for name in ("run_dir", "log_dir", "tmp_dir", "driver_bindings")}
    drivers = LocalDrivers(**folders, environment={})
    made = Deployment(project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "admin", drivers=drivers)
    use(made, tmp_path / "deployment.json", monkeypatch)
    return made


def run(*words: str) -> None:
    result = CliRunner().invoke(app.app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception


@pytest.mark.parametrize("text", NASTY)
def test_a_string_is_printed_as_it_is_with_controls_as_escapes(text: str, terminal: io.StringIO) -> None:
    common.console.print(f"before {text} after")
    assert terminal.getvalue() == f"before {NASTY[text]} after\n"


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("console", [common.LiteralConsole, Console])
def test_a_cell_a_heading_and_a_title_are_shown_as_they_are(text: str, console: type[Console]) -> None:
    shown = console()
    shown.width = 300
    with shown.capture() as caught:
        shown.print(tables.plain([text], [[text], [[text, text]], [None]], title=f"T {text}"))
    assert caught.get().count(NASTY[text]) == 5
    assert len(caught.get().rstrip().splitlines()) == 7, "a line end in a cell is no line of the table"


def letter(value: bytes, reason: str) -> Letter:
    return Letter("pos/0/1", "pos", 0, 1, 1_793_527_200_000, reason, "pos_sales.archive_pos", "3", b"k", value)


@pytest.mark.parametrize("text", NASTY)
def test_dead_letters_are_listed_and_shown_whatever_they_hold(
    text: str, deployment: Deployment, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = text.encode("utf-8", "replace")
    monkeypatch.setattr(reader, "read", lambda *_: [letter(value, f"bad_number: amount: {text} is not a number")])
    run("dead-letters", "list", "pos")
    run("dead-letters", "show", "pos")
    expected = printable(value.decode())
    assert f"bad_number: amount: {NASTY[text]} is not a number" in terminal.getvalue()
    assert expected in terminal.getvalue()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", terminal.getvalue())


def test_a_served_row_shows_a_product_named_like_markup(
    deployment: Deployment, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"product_id": text, "[/total]": 1} for text in NASTY]
    answer = SimpleNamespace(to_json_dict=lambda: {"rows": rows, "horizon": None, "next": None})
    monkeypatch.setattr(serve, "query", lambda *_, **__: answer)
    run("serve-query", "pos_sales", "tumbling")
    assert "[/total]" in terminal.getvalue()
    for shown in NASTY.values():
        assert shown in terminal.getvalue()


def test_an_example_of_a_failed_expectation_is_shown_as_it_is(
    deployment: Deployment, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"expectation": "not_null([/x])", "severity": "critical", "why": "[b]", "unexpected": 0, "percent": 0.0,
              "observed": "[/sale]\x1b[2K", "error": "", "examples": [{"a": "[/row]\nforged"}]}  # fmt: skip
    summary = {"sink": "kafka.pos_items", "status": "FAILED", "rows": 1, "sampled": False, "window": {"name": "[/w]"},
               "failed": [failed], "batches": []}  # fmt: skip
    small_files.write_json(paths.quality_latest(deployment.root, "kafka.pos_items"), summary)
    run("quality", "show", "kafka.pos_items")
    for shown in ("not_null([/x]) critical: [b]", r"found: [/sale]\x1b[2K", r"[/row]\nforged", "[/w]"):
        assert shown in terminal.getvalue()


def test_a_verdict_keeps_its_brackets(terminal: io.StringIO) -> None:
    reason = 'plan changed from ["Aggregate , "] to ["Aggregate [/x], "]\x1b[2K'
    row = QueryRow(pipeline="p", query="p.q", driver="RUNNING", detail="", verdict="CRASH_LOOP", reason=reason)
    common.console.print(tables.verdicts([row]))
    assert printable(reason) in terminal.getvalue()


def test_a_refusal_keeps_its_brackets_and_is_one_line_for_each_of_its_own(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise HeadraceError('plan changed from ["Aggregate , "] to ["Aggregate , "]: [/b] \x1b[2K.\nSecond sentence.')

    monkeypatch.setattr(app, "app", refused)
    with pytest.raises(SystemExit, match="1"):
        app.main()
    assert terminal.getvalue().splitlines() == [
        'plan changed from ["Aggregate , "] to ["Aggregate , "]: [/b] ' + r"\x1b[2K.",
        "Second sentence.",
    ]


def test_a_log_is_shown_without_the_escape_sequences_in_it(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.local.settings import Settings

    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    folder = Settings.load().log_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "driver-pos_sales.log").write_text("one \x1b[2K\ttwo\n[/b]\n")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    app.logs("pos_sales", lines=50, follow=False)
    assert shown.getvalue() == "one \\x1b[2K\ttwo\n[/b]\n"


@pytest.mark.parametrize("text", ["1761031200000", "20261123", "2026-W11-1", "202603091112131", "yesterday", ""])
def test_a_time_of_an_option_that_python_alone_would_read_is_refused(text: str) -> None:
    with pytest.raises(HeadraceError, match=r"is not a time\. Write 2026-11-23 or 2026-11-23T10:00 \(UTC\)"):
        common.time_of(text)
    assert common.time_of("2026-11-23T10:00+01:00") == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert common.time_of("2026-11-23") == datetime(2026, 11, 23, tzinfo=UTC)


def test_first_rows_of_the_demo_are_shown_as_they_are(terminal: io.StringIO) -> None:
    rows = {"table pos": [{"product_id": "[/sale]\n:boom:", "at": datetime(2026, 3, 9, 12, tzinfo=UTC)}], "empty": []}
    common.console.print(tables.first_rows(rows))
    assert r"product_id=[/sale]\n:boom:, at=12:00" in terminal.getvalue()
    assert "none yet" in terminal.getvalue()


@pytest.mark.parametrize("text", ["![x](https://evil.test/a.png)", "`a` ![x](y) ``b", "<img src=x>", "a\n\n# b", "`"])
def test_a_value_in_an_approvals_markdown_is_text(text: str) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").render(f"- write tumbling {code_span(text)}")
    assert html.count("<") == html.count("</") * 2, html
    assert set(re.findall(r"</?(\w+)", html)) == {"ul", "li", "code"}


def test_one_console_prints_for_all_commands(project: Path) -> None:
    """A second one would read markup again."""
    texts = {path.name: path.read_text() for path in (project / "src").rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"\bConsole\((?!\):)", text)] == []
    assert [name for name, text in texts.items() if "Console(stderr" in text] == ["common.py"]
    assert [name for name, text in texts.items() if re.search(r"from_markup|\[/\]", text)] == []
