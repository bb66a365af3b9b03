"""A look at a pipeline with a launcher of the imagination: it acts, remembers, and never works against an operator."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.contract import generation, names, paths, storage
from headrace.contract.load import by_name, load_pipelines
from headrace.errors import HeadraceError
from headrace.operations import control, intent, supervision, supervisor
from headrace.operations.drivers import LauncherSilentError
from headrace.operations.supervisor import Scene, look, supervise
from headrace.operations.verdict import LIMITS
from tests.operations.supervising import Imagined
from tests.operations.test_verdict import PIPELINE

NAME = PIPELINE.name
QUICK = replace(LIMITS, head_start=0, confirm=0, first_wait=0, longest_wait=0)
TOPICS: dict[str, dict[int, int]] = {topic: {0: 0, 1: 0} for topic in PIPELINE.sources}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A pipeline that ann wants to run, on an empty Kafka; no driver runs yet."""
    intent.write(str(tmp_path), NAME, "RUNNING", "ann", "start")
    time.sleep(0.01)  # a start in the very millisecond of the wish, which gives the budget back, is not counted
    return Scene(Imagined(str(tmp_path)), PIPELINE, lambda topics: TOPICS, QUICK, random.Random(1))


def imagined(scene: Scene) -> Imagined:
    assert isinstance(scene.launcher, Imagined)
    return scene.launcher


def away(topics: Any) -> Any:
    raise HeadraceError("Kafka does not answer.")


def test_a_driver_that_is_missed_is_started_with_the_order_of_the_wish(scene: Scene) -> None:
    wish = intent.write(scene.root, NAME, "RUNNING", "ann", "anew", release="/v2", new_generations=["last_login"])
    told = look(scene)
    assert (told["verdict"], told["action"]["kind"]) == ("MISSING", "START")
    (order,) = imagined(scene).orders
    assert (order.new_generations, order.release, order.request) == (("last_login",), "/v2", wish.request)
    imagined(scene).alive.clear()
    look(scene)
    assert imagined(scene).orders[1] == order, "a restart must repeat the order that it repeats"


def test_what_is_written_is_json_and_is_what_was_told(scene: Scene) -> None:
    told = look(scene)
    assert supervision.read(scene.root, NAME) == told
    assert told["restarts_left"] == QUICK.restarts - 1
    assert [query["query"] for query in told["queries"]] == ["user_logins.last_login", "user_logins.archive_logins"]
    assert told["last_action"] == told["action"]
    told = look(scene)
    assert (told["verdict"], told["driver"]["where"], told["action"]["kind"]) == ("IDLE", "process 1", "NOTHING")
    assert told["last_action"]["kind"] == "START"


@pytest.mark.parametrize("fault", ["launcher", "kafka", "intent", "heartbeat"])
def test_what_does_not_answer_is_unknown_and_nothing_is_touched(scene: Scene, fault: str) -> None:
    if fault == "launcher":
        imagined(scene).silent = True
    if fault == "kafka":
        scene = replace(scene, ends=away)
    if fault == "intent":
        storage.write_text(paths.intent(scene.root, NAME), "{cut")
    if fault == "heartbeat":
        storage.write_text(paths.heartbeat(scene.root, NAME), "{cut")
    told = look(scene)
    assert (told["verdict"], told["action"]["kind"]) == ("UNKNOWN", "NOTHING")
    assert told["reason"]
    assert not imagined(scene).orders
    assert not imagined(scene).stops


def test_a_storage_that_cannot_be_written_starts_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_json", full)
    assert look(scene)["verdict"] == "UNKNOWN"
    assert not imagined(scene).orders, "a start that is not written down is not counted"


def test_looking_alone_does_and_writes_nothing(scene: Scene) -> None:
    assert supervisor.describe(scene)["verdict"] == "MISSING"
    assert not imagined(scene).orders
    assert supervision.read(scene.root, NAME) is None


def test_a_launcher_that_falls_silent_after_the_look_is_not_asked_to_start(scene: Scene) -> None:
    def silent(topics: Any) -> Any:
        imagined(scene).silent = True
        return TOPICS

    told = look(replace(scene, ends=silent))
    assert told["action"]["kind"] == "NOTHING"
    assert supervision.read(scene.root, NAME) == told
    assert told["restarts_left"] == QUICK.restarts, "what was not tried is not counted"
    assert not imagined(scene).orders


def test_a_driver_that_may_still_write_costs_nothing_however_often_it_is_fenced(scene: Scene) -> None:
    look(scene)
    stopped = 0

    def lost(*_: object) -> None:
        nonlocal stopped
        stopped += 1
        raise LauncherSilentError("Pod deleted and not gone: may still write.")

    (living,) = imagined(scene).alive
    storage.write_json(
        paths.heartbeat(scene.root, NAME),
        {"pipeline": NAME, "at_ms": 1, "exit": None, "life": living.life, "queries": []},
    )
    left = QUICK.restarts - 1
    for _ in range(3 * QUICK.restarts):
        imagined(scene).hooks["stop"] = lost
        told = look(scene)
        if stopped:
            assert (told["verdict"], told["action"]["kind"]) == ("UNKNOWN", "NOTHING")
            assert "may still write" in told["reason"]
        assert told["restarts_left"] == left
    assert stopped > QUICK.restarts
    assert len(imagined(scene).orders) == 1
    imagined(scene).hooks.clear()
    assert look(scene)["action"]["kind"] == "FENCE_AND_START", "its node came back"
    assert len(imagined(scene).orders) == 2


def test_what_a_newer_release_wrote_is_read_by_an_older_one(scene: Scene) -> None:
    for path in (paths.intent(scene.root, NAME), paths.supervision(scene.root, NAME)):
        look(scene)
        found = storage.read_json(path) | {"of_a_newer_release": 1}
        if "memory" in found:
            found["memory"] |= {"newer": 1, "last_action": found["last_action"] | {"newer": 1}}
            found["memory"]["marks"] = {"last_login": {"generation": 1, "batch": 2, "newer": 3}}
        storage.write_json(path, found)
    assert look(scene)["verdict"] in {"IDLE", "MISSING"}
    made = generation.begin(scene.root, NAME, "last_login", {})
    manifest = made.paths(scene.root).manifest
    storage.write_json(manifest, storage.read_json(manifest) | {"of_a_newer_release": 1})
    assert generation.current(scene.root, NAME, "last_login") == made


def test_a_paused_pipeline_is_not_started_but_by_a_resume(scene: Scene) -> None:
    control.pause(scene.launcher, NAME, by="quality", reason="a critical expectation failed")
    with pytest.raises(
        control.PausedError, match=r"paused by quality: a critical .* `headrace stream resume user_logins`"
    ):
        control.start(scene.launcher, NAME, by="ann")
    assert intent.read(scene.root, NAME).want == "PAUSED"
    assert control.resume(scene.launcher, NAME, by="ann")[1]


def test_a_restart_that_is_tried_again_stops_only_what_it_did_not_start(scene: Scene) -> None:
    look(scene)
    launcher = imagined(scene)

    def fails() -> None:
        raise LauncherSilentError("The API answered 500.")

    for moment, stops in (("stop", 1), ("submit", 1), ("submitted", 0)):
        begun = len(launcher.stops)
        request = f"a run that breaks at its {moment}"
        launcher.hooks[moment] = fails
        with pytest.raises(LauncherSilentError):
            control.restart(launcher, NAME, by="ann", reason="x", new_generations=["last_login"], request=request)
        first, orders = intent.read(scene.root, NAME), len(launcher.orders)
        if moment == "stop":  # the old one lives; its start is long ago
            launcher.alive[0] = replace(launcher.alive[0], started=0.0)
        control.restart(launcher, NAME, by="ann", reason="x", new_generations=["last_login"], request=request)
        assert intent.read(scene.root, NAME) == first, "the wish of the first try, so no other generation begins"
        assert len(launcher.orders) - orders == (0 if moment == "submitted" else 1)
        assert len(launcher.stops) - begun >= stops
        assert len(launcher.alive) == 1


def test_new_generations_are_those_of_exactly_one_pipeline() -> None:
    control.require_queries([PIPELINE, PIPELINE], [])
    control.require_queries([PIPELINE], ["last_login", "archive_logins"])
    with pytest.raises(HeadraceError, match=r"Unknown query 'last_logni'\. Known queries: last_login, archive_logins"):
        control.require_queries([PIPELINE], ["last_logni"])
    with pytest.raises(HeadraceError, match="exactly one pipeline"):
        control.require_queries([PIPELINE, PIPELINE], ["last_login"])


def test_an_operator_who_stops_between_the_look_and_the_start_wins(scene: Scene) -> None:
    stopping = replace(scene, ends=lambda topics: intent.write(scene.root, NAME, "STOPPED", "bob", "x") and TOPICS)
    assert look(stopping)["action"]["kind"] == "NOTHING"
    assert not imagined(scene).orders


@pytest.mark.parametrize("moment", ["submit", "submitted"])
def test_an_operator_who_stops_during_the_start_wins(scene: Scene, moment: str) -> None:
    imagined(scene).hooks[moment] = lambda: control.stop(scene.launcher, NAME, by="bob")
    told = look(scene)
    assert imagined(scene).alive == []
    assert "undone" in told["action"]["reason"]
    assert look(scene)["verdict"] == "IDLE"


def test_an_operator_who_wants_another_start_during_the_start_gets_it(scene: Scene) -> None:
    def anew() -> None:
        intent.write(scene.root, NAME, "RUNNING", "bob", "anew", new_generations=["last_login"])

    imagined(scene).hooks["submitted"] = anew
    look(scene)
    assert [order.new_generations for order in imagined(scene).orders] == [(), ("last_login",)]
    assert len(imagined(scene).alive) == 1


def test_a_frozen_driver_is_killed_at_once_and_replaced_but_not_one_that_was_replaced_meanwhile(scene: Scene) -> None:
    look(scene)
    beat = {"at_ms": int((time.time() - 99) * 1000), "exit": None, "queries": []}
    storage.write_json(paths.heartbeat(scene.root, NAME), beat)
    old = replace(imagined(scene).alive[0], started=time.time() - 100)
    imagined(scene).alive = [old]
    # The identity is known, so that its start must be told as well.
    told = supervision.read(scene.root, NAME)
    assert told is not None
    told["memory"]["started_ms"] = int(old.started * 1000)
    supervision.write(scene.root, NAME, told)
    other = replace(old, identity="other@x")

    def replaced(topics: Any) -> Any:
        imagined(scene).alive = [other]
        return TOPICS

    assert look(replace(scene, ends=replaced))["action"]["kind"] == "NOTHING"
    assert not imagined(scene).stops
    imagined(scene).alive = [old]
    told = look(scene)
    assert (told["verdict"], told["action"]["kind"]) == ("STALLED", "FENCE_AND_START")
    assert imagined(scene).stops == [0]
    assert [driver.where for driver in imagined(scene).alive] == ["process 2"]


def test_a_crash_loop_spends_the_budget_alarms_once_and_ends_with_a_restart_by_an_operator(scene: Scene) -> None:
    kinds = []
    for _ in range(14):
        told = look(scene)
        kinds.append(told["action"]["kind"])
        imagined(scene).alive.clear()
    assert kinds == ["START"] * 8 + ["GIVE_UP"] + ["NOTHING"] * 5
    assert (told["verdict"], told["restarts_left"]) == ("CRASH_LOOP", 0)
    control.restart(scene.launcher, NAME, by="ann", reason="Kafka is back")
    assert look(scene)["restarts_left"] == 8


def test_a_start_that_fails_is_told_and_counted(scene: Scene) -> None:
    def refuse() -> None:
        raise HeadraceError("There is no Java.")

    imagined(scene).hooks["submit"] = refuse
    told = look(scene)
    assert told["action"]["reason"].endswith("it could not be started: There is no Java.")
    assert told["restarts_left"] == QUICK.restarts - 1


def test_a_watch_looks_again_and_tells_all_that_it_did(scene: Scene) -> None:
    looks = 0

    def fall(topics: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            imagined(scene).alive.clear()
        return TOPICS

    told = supervise(replace(scene, ends=fall), watch_seconds=1, look_seconds=0.1)
    assert looks > 4
    assert [action["kind"] for action in told["actions"]] == ["START", "START"]


def test_a_given_up_pipeline_fails_its_airflow_task_once(scene: Scene, project: Path) -> None:
    class Deployed:
        bindings = project

        def launcher(self) -> Any:
            return scene.launcher

        def pipeline(self, name: str) -> Any:
            return by_name({NAME: PIPELINE}, name)

    word = {"exit": "DAMAGED", "error": "offsets/7 is cut", "at_ms": time.time_ns() // 1_000_000, "request": ""}
    storage.write_json(paths.outcome(scene.root, NAME), word)
    with pytest.raises(HeadraceError, match=r"needs a person: .*DAMAGED: offsets/7 is cut.*CRASH_LOOP\.md"):
        supervisor.supervise_for_airflow(Deployed(), NAME, 0)  # type: ignore[arg-type]
    assert supervisor.supervise_for_airflow(Deployed(), NAME, 0)["verdict"] == "CRASH_LOOP"  # type: ignore[arg-type]
    with pytest.raises(HeadraceError, match="Unknown pipeline 'x'"):
        supervisor.supervise_for_airflow(Deployed(), "x", 0)  # type: ignore[arg-type]


def test_supervisors_at_one_instant_start_one_driver(scene: Scene) -> None:
    """Twenty passes at once, each with its own eyes."""
    imagined(scene).slow = 0.2  # long enough for all to see that none lives
    barrier = threading.Barrier(20)
    told: list[dict[str, Any]] = []

    def one() -> None:
        barrier.wait()
        told.append(look(scene))

    everybody = [threading.Thread(target=one) for _ in range(20)]
    for each in everybody:
        each.start()
    for each in everybody:
        each.join(60)
    assert [each["action"]["kind"] for each in told].count("START") == 1
    assert len(imagined(scene).orders) == 1


def _operator(scene: Scene, dice: random.Random, seconds: float) -> Callable[[], None]:
    def work() -> None:
        time.sleep(seconds)
        control.stop(scene.launcher, NAME, by="bob", reason="stop")

    return work


def test_an_operators_stop_wins_against_a_supervisor_at_any_moment(tmp_path: Path, seed: int) -> None:
    """Fifty seeded rounds: a supervisor starts what is missed, and an operator stops it somewhere in between."""
    dice = random.Random(seed)
    for number in range(50):
        root = tmp_path / str(number)
        intent.write(str(root), NAME, "RUNNING", "ann", "start")

        def slow(topics: Any) -> Any:
            time.sleep(0.002)
            return TOPICS

        launcher = Imagined(str(root), hooks={"submit": lambda: time.sleep(0.004)})
        scene = Scene(launcher, PIPELINE, slow, QUICK, dice)
        operator = threading.Thread(target=_operator(scene, dice, dice.uniform(0, 0.015)))
        operator.start()
        look(scene)
        operator.join(60)
        assert launcher.alive == [], f"round {number}"
        assert look(scene)["action"]["kind"] == "NOTHING"


def test_a_restart_repeats_new_generations_only_under_one_name_and_a_living_driver_refuses_them(scene: Scene) -> None:
    _, new = control.start(scene.launcher, NAME, by="ann", new_generations=["last_login"])
    assert new
    with pytest.raises(HeadraceError, match="so last_login cannot begin new generations: stop it first"):
        control.start(scene.launcher, NAME, by="ann", new_generations=["last_login"])
    _, new = control.start(
        scene.launcher, NAME, by="ann", new_generations=["last_login"], request=intent.read(scene.root, NAME).request
    )
    assert not new, "a retry of the same start adopts"
    first = intent.read(scene.root, NAME)
    assert first.new_generations == ("last_login",)
    control.restart(scene.launcher, NAME, by="ann", reason="again", new_generations=["last_login"])
    assert intent.read(scene.root, NAME).request != first.request
    control.pause(scene.launcher, NAME, by="ann", reason="lunch")
    control.resume(scene.launcher, NAME, by="ann")
    assert imagined(scene).orders[-1].new_generations == ()


def test_a_pass_over_all_pipelines_of_this_project_is_cheap(tmp_path: Path, project: Path) -> None:
    """Below 10 s of processor time are promised; Kafka's two answers are imagined here, checkpoints are real files."""
    began = time.process_time()
    for name, pipeline in load_pipelines(project / "pipelines").items():
        launcher = Imagined(str(tmp_path))
        control.start(launcher, name, by="ann")
        for query in names.query_names(pipeline):
            folder = Path(generation.begin(str(tmp_path), name, query, {}).paths(str(tmp_path)).checkpoint)
            for log in ("offsets", "commits"):
                (folder / log).mkdir(parents=True)
                for batch in range(100):  # what Spark retains
                    offsets = json.dumps({topic: {"0": batch, "1": batch} for topic in pipeline.sources})
                    (folder / log / str(batch)).write_text(f'v1\n{{"batchWatermarkMs":0}}\n{offsets}\n')
        told = look(Scene(launcher, pipeline, lambda topics: {topic: {0: 99, 1: 100} for topic in topics}))
        assert [query["batch"] for query in told["queries"]] == [99] * len(told["queries"])
    spent = time.process_time() - began
    print(f"\n{spent:.2f} s of processor time, with making the files")
    assert spent < 10
