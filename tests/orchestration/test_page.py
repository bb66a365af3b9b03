"""What the Streams page shows, from files alone: nothing hides a pipeline, nothing gets through unescaped."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.contract.files import pipeline_names
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment, LocalDrivers
from headrace.operations.drivers import desired_state
from headrace.operations.quality.status import MEANING
from headrace.operations.supervisor import memory
from headrace.orchestration import page
from headrace.store import paths, small_files
from headrace.store.records import from_json, to_json

EVIL = '"><script>alert(1)</script>'


def now_ms() -> int:
    """The moment of the call: the suite takes longer than a verdict stays fresh."""
    return int(time.time() * 1000)


@pytest.fixture
def deployed(tmp_path: Path, project: Path) -> Deployment:
    """A deployment of this project in which nothing ever ran."""
    folders = {name: tmp_path / name for name in ("run", "logs", "tmp", "bindings")}
    for folder in folders.values():
        folder.mkdir()
    local = LocalDrivers(
        run_dir=folders["run"],
        log_dir=folders["logs"],
        tmp_dir=folders["tmp"],
        driver_bindings=folders["bindings"],
        environment={},
    )
    return Deployment(
        project=project, root=str(tmp_path / "storage"), bindings=tmp_path / "bindings" / "admin", drivers=local
    )


def supervised(
    deployed: Deployment, pipeline: str, verdict: memory.Verdict, reason: str, at_ms: int | None = None, **more: Any
) -> None:
    fields: dict[str, Any] = {
        "pipeline": pipeline,
        "at_ms": at_ms or now_ms(),
        "verdict": verdict,
        "reason": reason,
        "queries": [],
        "driver": None,
    }
    fields |= {"runbook": memory.runbook(verdict), "wanted": "RUNNING", "restarts_left": 5, "next_start_ms": 0}
    document = fields | {"last_action": None} | more
    memory.write(deployed.root, pipeline, from_json(memory.Supervision, document))


def shown(deployed: Deployment) -> dict[str, page.Card]:
    return {card.name: card for card in page.overview(deployed)}


def html(deployed: Deployment) -> str:
    return page.render("streams.html", title="Streams", nonce="n", pipelines=page.overview(deployed))


def test_pipelines_that_never_ran_are_shown_with_all_their_queries(deployed: Deployment) -> None:
    cards = shown(deployed)
    assert {card.verdict for card in cards.values()} == {"UNKNOWN"}
    documents = [to_json(card) for card in cards.values()]
    assert documents == json.loads(json.dumps(documents))
    for name, pipeline in deployed.pipelines().items():
        assert {query.query for query in cards[name].queries} >= set(pipeline.queries)
        assert name in html(deployed)


def test_the_gravest_verdict_comes_first_and_a_good_one_last(deployed: Deployment) -> None:
    names = list(deployed.pipelines())[:4]
    verdicts: tuple[memory.Verdict, ...] = ("HEALTHY", "CRASH_LOOP", "IDLE", "LAGGING")
    for name, verdict in zip(names, verdicts, strict=True):
        supervised(deployed, name, verdict, "as told")
    shown = [card.verdict for card in page.overview(deployed) if card.name in names]
    assert shown == ["CRASH_LOOP", "LAGGING", "HEALTHY", "IDLE"]


def test_a_verdict_that_nobody_renewed_is_shown_as_old(deployed: Deployment) -> None:
    supervised(deployed, "pos_sales", "HEALTHY", "fine", at_ms=now_ms() - 600_000)
    supervised(deployed, "web_events", "HEALTHY", "fine")
    cards = shown(deployed)
    assert (cards["pos_sales"].stale, cards["web_events"].stale) == (True, False)
    assert html(deployed).count("nobody supervises") == 1


def test_the_desired_state_is_shown_with_who_and_why(deployed: Deployment) -> None:
    desired_state.write(deployed.root, "pos_sales", "PAUSED", "ana", "the bank moves house")
    assert "PAUSED by ana" in html(deployed)
    assert "the bank moves house" in html(deployed)


def test_what_people_and_drivers_wrote_is_escaped_wherever_it_stands(deployed: Deployment) -> None:
    desired_state.write(deployed.root, "pos_sales", "PAUSED", EVIL, EVIL)
    action = {"kind": "START", "reason": EVIL, "at_ms": now_ms()}
    query = {"query": "pos_sales.items", "verdict": "STALLED", "reason": EVIL, "lag": 5}
    driver = {"where": EVIL}
    supervised(deployed, "pos_sales", "STALLED", EVIL, queries=[query], last_action=action, driver=driver)
    ended = {"exit": "TRANSIENT", "error": EVIL, "at_ms": now_ms(), "request": "", "release": ""}
    small_files.write_json(paths.outcome(deployed.root, "pos_sales"), ended)
    text = html(deployed)
    # by; the reasons of the desired state, the verdict, the query and the action; driver; outcome
    assert text.count("alert(1)") == 7
    assert "<script>alert" not in text
    assert EVIL not in page.render("log.html", title=EVIL, nonce="n", text=EVIL, lines=1)


def test_a_pipeline_whose_file_is_broken_is_unknown_and_hides_no_other(deployed: Deployment) -> None:
    supervised(deployed, "web_events", "HEALTHY", "fine")
    small_files.write_text(paths.intent(deployed.root, "pos_sales"), "{")
    cards = shown(deployed)
    assert cards["pos_sales"].verdict == "UNKNOWN"
    assert "is not JSON" in cards["pos_sales"].reason
    assert cards["web_events"].verdict == "HEALTHY"
    assert "is not JSON" in html(deployed)


def test_every_link_of_the_page_is_relative_so_that_a_path_prefix_stays_in_front(deployed: Deployment) -> None:
    supervised(deployed, "pos_sales", "STALLED", "no batch")
    links = re.findall(r'(?:href|src|action)="([^"]*)"', html(deployed)) + re.findall(
        r'fetch\("([^"]*)"', html(deployed)
    )
    assert "log/pos_sales" in links
    assert "runbook/STALLED" in links
    assert "pipelines" in links
    assert [link for link in links if link.startswith("/") or ":" in link] == []


def test_only_a_web_address_becomes_a_link_to_the_spark_ui(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ("RUNNING", "process 1")
    monkeypatch.setattr("headrace.operations.streams.driver_state", lambda *_: state)
    for address, link in (("http://127.0.0.1:4040", "http://127.0.0.1:4040"), ("javascript:alert(1)", None)):
        beat: dict[str, Any] = {"at_ms": now_ms(), "exit": None, "ui": address, "queries": []}
        small_files.write_json(paths.heartbeat(deployed.root, "pos_sales"), beat)
        assert shown(deployed)["pos_sales"].spark_ui == link


def test_a_log_or_runbook_that_there_is_not_is_refused_in_a_sentence(deployed: Deployment) -> None:
    with pytest.raises(HeadraceError, match=r"Unknown pipeline '../../etc'"):
        page.log_tail(deployed, "../../etc", 10)
    for name in ("../../README", "HEALTHY", ""):
        with pytest.raises(HeadraceError, match="Unknown runbook"):
            page.runbook(deployed, name)


def test_a_runbook_is_shown_as_html_and_html_within_it_is_escaped(deployed: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "project" / "docs" / "runbooks"
    folder.mkdir(parents=True)
    (folder / "STALLED.md").write_text("# Stalled\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<script>alert(1)</script>\n")
    text = page.runbook(deployed.model_copy(update={"project": tmp_path / "project"}), "STALLED")
    assert "<h1>Stalled</h1>" in text
    assert "<table>" in text
    assert "<script>" not in text


def checked(deployed: Deployment, sink: str, *checks: dict[str, Any]) -> None:
    points = [
        {"checked_at_ms": now_ms(), "status": "PASSED", "window": "w", "rows": 7, "failed": []} | check
        for check in checks
    ]
    small_files.write_json(paths.quality_trend(deployed.root, sink), points)


def test_each_sink_shows_its_checks_and_links_to_their_data_docs(deployed: Deployment) -> None:
    checked(deployed, "kafka.pos_items", {"status": "FAILED", "failed": ["not_be_null(x) (critical)"]}, {}, {})
    text = html(deployed)
    assert [text.count(f'class="dot {status}"') for status in ("PASSED", "FAILED", "WARNED")] == [2, 1, 0]
    assert re.search(r'href="docs/validations/kafka/pos_items/w/\d{8}T\d{6}\.\d{6}Z/kafka\.pos_items\.html"', text)
    assert "not_be_null(x) (critical)" in text
    assert "not checked yet" in text  # the others
    home = page.render("docs_home.html", title="Data Docs", nonce="n", sinks=page.checked(deployed))
    assert home.count('href="validations/kafka/pos_items/') == 3


def test_what_a_check_wrote_is_escaped_and_a_broken_trend_hides_no_pipeline(deployed: Deployment) -> None:
    checked(deployed, "kafka.pos_items", {"status": EVIL, "window": EVIL, "failed": [EVIL]})
    small_files.write_text(paths.quality_trend(deployed.root, "kafka.transformed"), EVIL)
    home = page.render("docs_home.html", title="Data Docs", nonce="n", sinks=page.checked(deployed))
    for text in (html(deployed), home):
        assert "alert(1)" in text
        assert EVIL not in text
        assert "<script>alert" not in text
        assert "trend not available: " in text
    assert set(shown(deployed)) == set(deployed.pipelines())


@pytest.mark.parametrize("kind", [".v.{}", ".dot.{}", ".bars .{} rect"], ids=["word", "dot", "bar"])
def test_each_status_of_a_check_has_a_look_of_its_own(project: Path, kind: str) -> None:
    css = (project / "src/headrace/orchestration/pages/frame.html").read_text()
    rules = re.findall(r"([.\w, -]+?)\s*\{([^}]*)\}", css)
    looks = {
        status: tuple(look for selectors, look in rules if kind.format(status) in re.split(r",\s*", selectors.strip()))
        for status in MEANING
    }
    assert len(set(looks.values())) == len(MEANING), looks


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (59, "59 s"), (61, "1 min"), (3_700, "1 h 1 min"), (200_000, "2 d 7 h")]
)
def test_an_age_is_shown_in_its_largest_units(seconds: float, words: str) -> None:
    assert page.render("pipelines.html", pipelines=[]).strip() == "<p>There are no pipelines in this project.</p>"
    assert page._span(seconds) == words


def test_a_pipeline_file_that_does_not_load_is_reported_and_hides_no_pipeline(
    deployed: Deployment, tmp_path: Path, project: Path
) -> None:
    folder = tmp_path / "project" / "pipelines"
    shutil.copytree(project / "pipelines", folder)
    (folder / ".#pos_sales.yaml").symlink_to("ada@laptop.4711:1764400000")
    (folder / "lost.yaml").symlink_to("nowhere")
    with (folder / "pos_sales.yaml").open("a") as file:
        file.write(f"colour: '{EVIL}'\n")
    deployed = deployed.model_copy(update={"project": folder.parent})
    supervised(deployed, "web_events", "HEALTHY", "fine")
    cards = shown(deployed)
    assert sorted(cards) == sorted(["lost", *pipeline_names(project / "pipelines")])
    assert cards["web_events"].verdict == "HEALTHY"
    assert cards["pos_sales"].verdict == "UNKNOWN"
    assert "colour: unknown key" in cards["pos_sales"].reason
    assert "lost.yaml links to nowhere, which does not exist" in cards["lost"].reason
    assert "colour: unknown key" in html(deployed)
    assert page.log_tail(deployed, "pos_sales", 5) == ""
    shutil.copy(project / "pipelines" / "pos_sales.yaml", folder)
    assert shown(deployed)["pos_sales"].reason == "no supervisor has made a pass over it yet"
