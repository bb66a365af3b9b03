"""Every fault that doctor knows, made on purpose: the sentence names it and the remedy."""

from __future__ import annotations

import hashlib
import socket
import threading
import types
from pathlib import Path

import psutil
import pytest

from headrace.errors import HeadraceError
from headrace.local import cassandra, doctor, kafka, passwords, platform
from headrace.local.settings import Settings
from tests.support.platform import local_settings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failed(check: doctor.MachineCheck) -> str:
    assert not check.ok
    assert check.remedy
    return f"{check.detail}: {check.remedy}"


def test_a_taken_port_is_refused_with_its_holder_and_the_setting_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = local_settings(tmp_path / "home", cassandra_port=port)
        with pytest.raises(
            HeadraceError, match=rf"Port {port} \(cassandra_port\) .* is taken.*HEADRACE_CASSANDRA_PORT"
        ):
            platform.up(settings)
    assert not (tmp_path / "home").exists()


def test_two_probes_at_once_and_a_server_that_starts_meanwhile_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = local_settings(tmp_path)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((settings.host, settings.kafka_port))  # what another look holds for a moment
        assert doctor.check_ports(settings).ok
        real = doctor._why_taken
        started: set[str] = set()

        def look(host: str, port: int) -> str | None:
            started.add(kafka.NAME)  # by another `up`, in the middle of this look
            return real(host, port)

        monkeypatch.setattr(doctor, "_why_taken", look)
        monkeypatch.setattr(doctor, "_running", lambda _settings: set(started))
        other.listen(1)
        assert doctor.check_ports(settings).ok


def test_two_settings_with_one_port_are_refused(tmp_path: Path) -> None:
    settings = local_settings(tmp_path, kafka_port=20000, cassandra_jmx_port=20000)
    assert "kafka_port and cassandra_jmx_port name the same port 20000" in failed(doctor.check_ports(settings))


def test_an_address_that_this_machine_does_not_have_is_refused(tmp_path: Path) -> None:
    sentence = failed(doctor.check_ports(local_settings(tmp_path, host="192.0.2.1")))
    assert "on 192.0.2.1 cannot be opened" in sentence


def test_too_little_memory_is_refused_with_both_figures(tmp_path: Path) -> None:
    sentence = failed(doctor.check_memory(local_settings(tmp_path, min_free_memory_mb=10_000_000)))
    assert "10000000 MiB are needed" in sentence
    assert "HEADRACE_MIN_FREE_MEMORY_MB" in sentence


def test_memory_is_asked_only_for_what_does_not_run_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = local_settings(tmp_path, min_free_memory_mb=10_000_000)
    monkeypatch.setattr(doctor, "_running", lambda _settings: {kafka.NAME, cassandra.NAME})
    assert doctor.check_memory(settings).ok


def test_a_container_limit_below_the_machines_memory_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = types.SimpleNamespace(available=8 * 1024**3)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    (tmp_path / "memory.max").write_text(f"{300 * 1024 * 1024}\n")
    (tmp_path / "memory.current").write_text(f"{100 * 1024 * 1024}\n")
    assert doctor.available_memory(tmp_path) == 200 * 1024 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.available_memory(tmp_path) == machine.available


def test_too_little_disk_is_refused_with_the_place(tmp_path: Path) -> None:
    sentence = failed(doctor.check_disk(local_settings(tmp_path / "home", min_free_disk_mb=10**9)))
    assert f"free at {tmp_path / 'home'}, 1000000000 MiB are needed" in sentence


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in failed(doctor.check_folder("home", tmp_path / "file" / "home"))


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), False)])
def test_only_the_tested_pythons_are_taken(version: tuple[int, int], ok: bool) -> None:
    assert doctor.check_python(version).ok is ok


def test_pyspark_client_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", {"pyspark": "3.5.7", "pyspark-client": "4.0.1"}.get)
    assert "pyspark-client 4.0.1 is installed and has overwritten" in failed(doctor.check_pyspark())


def test_another_pyspark_is_refused_with_the_wanted_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", {"pyspark": "3.5.9"}.get)
    assert "pyspark is 3.5.9, not 3.5.7" in failed(doctor.check_pyspark())


def test_the_installed_pyspark_is_complete() -> None:
    assert doctor.check_pyspark().ok


def test_an_incomplete_cache_is_shown_and_does_not_block(tmp_path: Path) -> None:
    check = doctor.check_jars(local_settings(tmp_path, cache=tmp_path / "cache"))
    assert "has missing or damaged jars" in failed(check)
    assert not check.blocks


def test_a_misspelt_variable_is_shown() -> None:
    assert "HEADRACE_KAFKA_PROT in the environment is not a setting" in failed(
        doctor.check_variables({"HEADRACE_KAFKA_PROT": "1", "HEADRACE_KAFKA_PORT": "1", "PATH": ""})
    )


def test_a_version_that_differs_from_the_lock_is_shown(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"# made by uv\npsutil=={psutil.__version__} \\\n    --hash=sha256:{digest}\n"
        f"pyyaml==0.1 ; python_full_version >= '3.9' \\\n    --hash=sha256:{digest}\n"
        "winonly==1 ; sys_platform == 'win32'\n"
    )
    sentence = failed(doctor.check_lock(lock))
    assert "pyyaml is " in sentence
    assert ", not 0.1" in sentence
    assert "winonly" not in sentence
    assert "psutil" not in sentence


def test_doctor_runs_every_check_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    names = {check.name for check in doctor.run(local_settings(home))}
    assert names >= {
        "python",
        "java",
        "memory",
        "disk",
        "ports",
        "home",
        "cache",
        "jars",
        "pyspark",
        "lock",
        "variables",
    }
    assert not home.exists()


def test_clean_refuses_a_folder_that_headrace_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(HeadraceError, match="was not created by headrace"):
        platform.clean(Settings.load(home=tmp_path))
    assert (tmp_path / "precious").exists()


def test_data_without_its_password_is_refused_with_the_way_out(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / "home")
    (settings.home / "data" / "kafka").mkdir(parents=True)
    with pytest.raises(HeadraceError, match=r"kafka has data in .*, but its password .* is missing"):
        passwords.require_kept("kafka", settings.home / "data" / "kafka", settings)


def test_down_and_status_of_a_platform_that_never_was_do_nothing(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / "home")
    platform.down(settings)
    assert [part.state for part in platform.status(settings)] == ["STOPPED", "STOPPED"]
    assert not settings.home.exists()


def test_the_port_of_a_server_that_was_just_killed_is_waited_for() -> None:
    """The kernel still holds the port, and no process listens on it: a socket that is bound and does not listen."""
    with socket.socket() as dying:
        dying.bind(("127.0.0.1", 0))
        port = dying.getsockname()[1]
        release = threading.Timer(0.5, dying.close)
        release.start()
        assert doctor._why_taken("127.0.0.1", port) is None
        release.join()


def test_a_port_that_stays_taken_is_reported_without_a_holder_if_none_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RELEASE_SECONDS", 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        assert doctor._why_taken("127.0.0.1", other.getsockname()[1]) == "is taken"
