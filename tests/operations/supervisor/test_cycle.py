"""A look at a pipeline with a launcher of the imagination: it acts, remembers, and never works against an operator."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.contract.load import by_name
from headrace.errors import HeadraceError
from headrace.operations.drivers import control, desired_state
from headrace.operations.drivers.interface import LauncherSilentError
from headrace.operations.supervisor import cycle
from headrace.operations.supervisor import memory as supervision
from headrace.operations.supervisor.cycle import Context, run_pass, supervise
from headrace.operations.supervisor.driver_health import LIMITS
from headrace.operations.supervisor.memory import Supervision
from headrace.store import generation, paths, small_files
from headrace.store.checkpoint_log import Offsets
from tests.operations.supervising import Imagined
from tests.operations.supervisor.test_verdict import PIPELINE

NAME = PIPELINE.name
QUICK = replace(LIMITS, head_start=0, confirm=0, first_wait=0, longest_wait=0)
TOPICS: dict[str, dict[int, int]] = {topic: {0: 0, 1: 0} for topic in PIPELINE.sources}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A pipeline that ann wants to run, on an empty Kafka; no driver runs yet."""
    desired_state.write(str(tmp_path), NAME, "RUNNING", "ann", "start")
    time.sleep(0.01)  # a start in the very millisecond of the wish, which gives the budget back, is not counted
    return Context(Imagined(str(tmp_path)), PIPELINE, lambda topics: TOPICS, QUICK, random.Random(1))


def imagined(context: Context) -> Imagined:
    assert isinstance(context.launcher, Imagined)
    return context.launcher


def away(topics: Any) -> Any:
    raise HeadraceError("Kafka does not answer.")


def test_a_missing_driver_is_started_with_the_request_of_the_desired_state(context: Context) -> None:
    desired = desired_state.write(
        context.root, NAME, "RUNNING", "ann", "anew", release="/v2", new_generations=["last_login"]
    )
    report = run_pass(context)
    assert (report.verdict, report.action.kind) == ("MISSING", "START")
    (order,) = imagined(context).starts
    assert (order.new_generations, order.release, order.request) == (("last_login",), "/v2", desired.request)
    imagined(context).alive.clear()
    run_pass(context)
    assert imagined(context).starts[1] == order, "a restart must repeat the order that it repeats"


def test_what_is_written_is_json_and_is_what_was_reported(context: Context) -> None:
    report = run_pass(context)
    assert supervision.read(context.root, NAME) == report
    assert report.restarts_left == QUICK.restarts - 1
    assert [query.query for query in report.queries] == ["user_logins.last_login", "user_logins.archive_logins"]
    assert report.last_action == report.action
    report = run_pass(context)
    assert report.driver is not None
    assert report.last_action is not None
    assert (report.verdict, report.driver.where, report.action.kind) == ("IDLE", "process 1", "NOTHING")
    assert report.last_action.kind == "START"


@pytest.mark.parametrize("fault", ["launcher", "kafka", "intent", "heartbeat"])
def test_what_does_not_answer_is_unknown_and_nothing_is_touched(context: Context, fault: str) -> None:
    if fault == "launcher":
        imagined(context).silent = True
    if fault == "kafka":
        context = replace(context, ends=away)
    if fault == "intent":
        small_files.write_text(paths.intent(context.root, NAME), "{cut")
    if fault == "heartbeat":
        small_files.write_text(paths.heartbeat(context.root, NAME), "{cut")
    report = run_pass(context)
    assert (report.verdict, report.action.kind) == ("UNKNOWN", "NOTHING")
    assert report.reason
    assert not imagined(context).starts
    assert not imagined(context).stops


def test_a_storage_that_cannot_be_written_starts_nothing(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(small_files, "write_json", full)
    assert run_pass(context).verdict == "UNKNOWN"
    assert not imagined(context).starts, "a start that is not written down is not counted"


def test_looking_alone_does_and_writes_nothing(context: Context) -> None:
    assert cycle.describe(context).verdict == "MISSING"
    assert not imagined(context).starts
    assert supervision.read(context.root, NAME) is None


def test_a_launcher_that_falls_silent_after_the_observation_is_not_asked_to_start(context: Context) -> None:
    def silent(topics: Any) -> Any:
        imagined(context).silent = True
        return TOPICS

    report = run_pass(replace(context, ends=silent))
    assert report.action.kind == "NOTHING"
    assert supervision.read(context.root, NAME) == report
    assert report.restarts_left == QUICK.restarts, "what was not tried is not counted"
    assert not imagined(context).starts


def test_a_driver_that_may_still_write_costs_nothing_however_often_it_is_fenced(context: Context) -> None:
    run_pass(context)
    stopped = 0

    def lost(*_: object) -> None:
        nonlocal stopped
        stopped += 1
        raise LauncherSilentError("Pod deleted and not gone: may still write.")

    (living,) = imagined(context).alive
    small_files.write_json(
        paths.heartbeat(context.root, NAME),
        {"pipeline": NAME, "at_ms": 1, "exit": None, "life": living.instance, "queries": []},
    )
    left = QUICK.restarts - 1
    for _ in range(3 * QUICK.restarts):
        imagined(context).hooks["stop"] = lost
        report = run_pass(context)
        if stopped:
            assert (report.verdict, report.action.kind) == ("UNKNOWN", "NOTHING")
            assert "may still write" in report.reason
        assert report.restarts_left == left
    assert stopped > QUICK.restarts
    assert len(imagined(context).starts) == 1
    imagined(context).hooks.clear()
    assert run_pass(context).action.kind == "FENCE_AND_START", "its node came back"
    assert len(imagined(context).starts) == 2


def test_what_a_newer_release_wrote_is_read_by_an_older_one(context: Context) -> None:
    for path in (paths.intent(context.root, NAME), paths.supervision(context.root, NAME)):
        run_pass(context)
        document = (small_files.read_json(path) or {}) | {"of_a_newer_release": 1}
        if "memory" in document:
            document["memory"] |= {"newer": 1, "last_action": document["last_action"] | {"newer": 1}}
            document["memory"]["marks"] = {"last_login": {"generation": 1, "batch": 2, "newer": 3}}
        small_files.write_json(path, document)
    assert run_pass(context).verdict in {"IDLE", "MISSING"}
    made = generation.begin(context.root, NAME, "last_login", {})
    manifest = made.paths(context.root).manifest
    small_files.write_json(manifest, (small_files.read_json(manifest) or {}) | {"of_a_newer_release": 1})
    assert generation.current(context.root, NAME, "last_login") == made


def test_a_paused_pipeline_is_not_started_but_by_a_resume(context: Context) -> None:
    control.pause(context.launcher, NAME, by="quality", reason="a critical expectation failed")
    with pytest.raises(
        control.PausedError, match=r"paused by quality: a critical .* `headrace stream resume user_logins`"
    ):
        control.start(context.launcher, NAME, by="ann")
    assert desired_state.read(context.root, NAME).want == "PAUSED"
    assert control.resume(context.launcher, NAME, by="ann")[1]


def test_a_restart_that_is_tried_again_stops_only_what_it_did_not_start(context: Context) -> None:
    run_pass(context)
    launcher = imagined(context)

    def fails() -> None:
        raise LauncherSilentError("The API answered 500.")

    for moment, stops in (("stop", 1), ("submit", 1), ("submitted", 0)):
        begun = len(launcher.stops)
        request = f"a run that breaks at its {moment}"
        launcher.hooks[moment] = fails
        with pytest.raises(LauncherSilentError):
            control.restart(launcher, NAME, by="ann", reason="x", new_generations=["last_login"], request=request)
        first, orders = desired_state.read(context.root, NAME), len(launcher.starts)
        if moment == "stop":  # the old one lives; its start is long ago
            launcher.alive[0] = replace(launcher.alive[0], started=0.0)
        control.restart(launcher, NAME, by="ann", reason="x", new_generations=["last_login"], request=request)
        assert desired_state.read(context.root, NAME) == first, (
            "the wish of the first try, so no other generation begins"
        )
        assert len(launcher.starts) - orders == (0 if moment == "submitted" else 1)
        assert len(launcher.stops) - begun >= stops
        assert len(launcher.alive) == 1


def test_new_generations_are_those_of_exactly_one_pipeline() -> None:
    control.require_queries([PIPELINE, PIPELINE], [])
    control.require_queries([PIPELINE], ["last_login", "archive_logins"])
    with pytest.raises(HeadraceError, match=r"Unknown query 'last_logni'\. Known queries: last_login, archive_logins"):
        control.require_queries([PIPELINE], ["last_logni"])
    with pytest.raises(HeadraceError, match="exactly one pipeline"):
        control.require_queries([PIPELINE, PIPELINE], ["last_login"])


def test_an_operator_who_stops_between_the_observation_and_the_start_wins(context: Context) -> None:
    def stops(_: object) -> Offsets:
        desired_state.write(context.root, NAME, "STOPPED", "bob", "x")
        return TOPICS

    stopping = replace(context, ends=stops)
    assert run_pass(stopping).action.kind == "NOTHING"
    assert not imagined(context).starts


@pytest.mark.parametrize("moment", ["submit", "submitted"])
def test_an_operator_who_stops_during_the_start_wins(context: Context, moment: str) -> None:
    imagined(context).hooks[moment] = lambda: control.stop(context.launcher, NAME, by="bob")
    report = run_pass(context)
    assert imagined(context).alive == []
    assert "undone" in report.action.reason
    assert run_pass(context).verdict == "IDLE"


def test_an_operator_who_wants_another_start_during_the_start_gets_it(context: Context) -> None:
    def anew() -> None:
        desired_state.write(context.root, NAME, "RUNNING", "bob", "anew", new_generations=["last_login"])

    imagined(context).hooks["submitted"] = anew
    run_pass(context)
    assert [order.new_generations for order in imagined(context).starts] == [(), ("last_login",)]
    assert len(imagined(context).alive) == 1


def test_a_frozen_driver_is_killed_at_once_and_replaced_but_not_one_that_was_replaced_meanwhile(
    context: Context,
) -> None:
    run_pass(context)
    beat: dict[str, Any] = {"at_ms": int((time.time() - 99) * 1000), "exit": None, "queries": []}
    small_files.write_json(paths.heartbeat(context.root, NAME), beat)
    old = replace(imagined(context).alive[0], started=time.time() - 100)
    imagined(context).alive = [old]
    # The identity is known, so that its start must be told as well.
    report = supervision.read(context.root, NAME)
    assert report is not None
    memory = replace(report.memory, started_ms=int(old.started * 1000))
    supervision.write(context.root, NAME, replace(report, memory=memory))
    other = replace(old, identity="other@x")

    def replaced(topics: Any) -> Any:
        imagined(context).alive = [other]
        return TOPICS

    assert run_pass(replace(context, ends=replaced)).action.kind == "NOTHING"
    assert not imagined(context).stops
    imagined(context).alive = [old]
    report = run_pass(context)
    assert (report.verdict, report.action.kind) == ("STALLED", "FENCE_AND_START")
    assert imagined(context).stops == [0]
    assert [driver.where for driver in imagined(context).alive] == ["process 2"]


def test_a_crash_loop_spends_the_budget_alarms_once_and_ends_with_a_restart_by_an_operator(context: Context) -> None:
    kinds = []
    for _ in range(14):
        report = run_pass(context)
        kinds.append(report.action.kind)
        imagined(context).alive.clear()
    assert kinds == ["START"] * 8 + ["GIVE_UP"] + ["NOTHING"] * 5
    assert (report.verdict, report.restarts_left) == ("CRASH_LOOP", 0)
    control.restart(context.launcher, NAME, by="ann", reason="Kafka is back")
    assert run_pass(context).restarts_left == 8


def test_a_start_that_fails_is_reported_and_counted(context: Context) -> None:
    def refuse() -> None:
        raise HeadraceError("There is no Java.")

    imagined(context).hooks["submit"] = refuse
    report = run_pass(context)
    assert report.action.reason.endswith("it could not be started: There is no Java.")
    assert report.restarts_left == QUICK.restarts - 1


def test_a_watch_observes_again_and_reports_all_that_it_did(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, slept = 0, [0.0]
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append, time_ns=time.time_ns)
    monkeypatch.setattr(cycle, "time", clock)  # on a busy machine one pass may last as long as the watch

    def fall(topics: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            imagined(context).alive.clear()
        return TOPICS

    report = supervise(replace(context, ends=fall), watch_seconds=1, pass_seconds=0.105)
    assert looks == 10
    assert [action.kind for action in report.actions] == ["START", "START"]


def test_a_given_up_pipeline_fails_its_airflow_task_once(context: Context, project: Path) -> None:
    class Deployed:
        bindings = project

        def launcher(self) -> Any:
            return context.launcher

        def pipeline(self, name: str) -> Any:
            return by_name({NAME: PIPELINE}, name)

    word = {"exit": "DAMAGED", "error": "offsets/7 is cut", "at_ms": time.time_ns() // 1_000_000, "request": ""}
    small_files.write_json(paths.outcome(context.root, NAME), word)
    with pytest.raises(HeadraceError, match=r"needs a person: .*DAMAGED: offsets/7 is cut.*CRASH_LOOP\.md"):
        cycle.supervise_for_airflow(Deployed(), NAME, 0)  # type: ignore[arg-type]
    assert cycle.supervise_for_airflow(Deployed(), NAME, 0).last.verdict == "CRASH_LOOP"  # type: ignore[arg-type]
    with pytest.raises(HeadraceError, match="Unknown pipeline 'x'"):
        cycle.supervise_for_airflow(Deployed(), "x", 0)  # type: ignore[arg-type]


def test_supervisors_at_one_instant_start_one_driver(context: Context) -> None:
    """Twenty passes at once, each with its own eyes."""
    imagined(context).slow = 0.2  # long enough for all to see that none lives
    barrier = threading.Barrier(20)
    reports: list[Supervision] = []

    def one() -> None:
        barrier.wait()
        reports.append(run_pass(context))

    everybody = [threading.Thread(target=one) for _ in range(20)]
    for thread in everybody:
        thread.start()
    for thread in everybody:
        thread.join(300)
    assert [report.action.kind for report in reports].count("START") == 1
    assert len(imagined(context).starts) == 1


def _operator(context: Context, rng: random.Random, seconds: float) -> Callable[[], None]:
    def work() -> None:
        time.sleep(seconds)
        control.stop(context.launcher, NAME, by="bob", reason="stop")

    return work


def test_an_operators_stop_wins_against_a_supervisor_at_any_moment(tmp_path: Path, seed: int) -> None:
    """Fifty seeded rounds: a supervisor starts what is missed, and an operator stops it somewhere in between."""
    rng = random.Random(seed)
    for number in range(50):
        root = tmp_path / str(number)
        desired_state.write(str(root), NAME, "RUNNING", "ann", "start")

        def slow(topics: Any) -> Any:
            time.sleep(0.002)
            return TOPICS

        launcher = Imagined(str(root), hooks={"submit": lambda: time.sleep(0.004)})
        context = Context(launcher, PIPELINE, slow, QUICK, rng)
        operator = threading.Thread(target=_operator(context, rng, rng.uniform(0, 0.015)))
        operator.start()
        run_pass(context)
        operator.join(300)
        assert launcher.alive == [], f"round {number}"
        assert run_pass(context).action.kind == "NOTHING"


def test_a_restart_repeats_new_generations_only_under_one_name_and_a_living_driver_refuses_them(
    context: Context,
) -> None:
    _, new = control.start(context.launcher, NAME, by="ann", new_generations=["last_login"])
    assert new
    with pytest.raises(HeadraceError, match="so last_login cannot begin new generations: stop it first"):
        control.start(context.launcher, NAME, by="ann", new_generations=["last_login"])
    _, new = control.start(
        context.launcher,
        NAME,
        by="ann",
        new_generations=["last_login"],
        request=desired_state.read(context.root, NAME).request,
    )
    assert not new, "a retry of the same start adopts"
    first = desired_state.read(context.root, NAME)
    assert first.new_generations == ("last_login",)
    control.restart(context.launcher, NAME, by="ann", reason="again", new_generations=["last_login"])
    assert desired_state.read(context.root, NAME).request != first.request
    control.pause(context.launcher, NAME, by="ann", reason="lunch")
    control.resume(context.launcher, NAME, by="ann")
    assert imagined(context).starts[-1].new_generations == ()
