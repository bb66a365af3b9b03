"""Settings: where they come from, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.local.settings import Settings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_source_the_documented_defaults_hold(project: Path) -> None:
    settings = Settings.load()
    assert settings.home == project / ".headrace"
    assert (settings.kafka_port, settings.cassandra_port) == (19092, 19042)
    assert settings.host == "127.0.0.1"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "headrace.toml").write_text('kafka_port = 20001\nkafka_heap = "300m"\n')
    monkeypatch.setenv("HEADRACE_KAFKA_PORT", "20002")
    settings = Settings.load()
    assert (settings.kafka_port, settings.kafka_heap, settings.cassandra_heap) == (20002, "300m", "512m")


def test_the_cache_follows_the_xdg_variable(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "xdg"))
    assert Settings.load().cache == project / "xdg" / "headrace"


def test_an_unknown_key_in_the_file_is_refused_with_the_known_ones(project: Path) -> None:
    (project / "headrace.toml").write_text("kafka_prot = 1\n")
    with pytest.raises(
        HeadraceError, match=r"Unknown setting 'kafka_prot' in headrace\.toml\. Known settings: airflow, .*kafka_port"
    ):
        Settings.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kafka_port", "70000"),
        ("kafka_heap", "lots"),
        ("driver_heap", "1 GB"),
        ("home", "a:b"),
        ("stop_timeout_s", "0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_where_to_set_it(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(f"HEADRACE_{key.upper()}", value)
    with pytest.raises(HeadraceError, match=rf"{key} = .*{value}.* is refused: .*HEADRACE_{key.upper()}\."):
        Settings.load()


def test_a_file_that_is_not_toml_is_refused_by_name(project: Path) -> None:
    (project / "headrace.toml").write_text("kafka_port: 1\n")
    with pytest.raises(HeadraceError, match=r"headrace.toml is not TOML"):
        Settings.load()


def test_a_file_in_another_folder_has_no_effect(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "headrace.toml").write_text("kafka_port = 20001\n")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    assert Settings.load().kafka_port == 19092
