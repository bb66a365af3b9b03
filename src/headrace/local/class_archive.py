"""The class archive of Spark drivers, created once for all starts: saves half of a start's CPU (`driver.rehearsal`, ADR 0018).

An archive is valid for one Java and one class path, which contains the path of the virtual environment; its name encodes
both. A JVM crashes on a truncated archive, so the name also has the size, and a file of another size is never used.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace.local import jars
from headrace.local.jars import Progress
from headrace.local.java import Java, child_environment
from headrace.local.settings import Settings
from headrace.store import spark_conf

STAGE = "archive Spark's classes (once)"
TIMEOUT_SECONDS = 600
log = logging.getLogger(__name__)


def java_options(settings: Settings, java: Java) -> str:
    """Return the JVM options of a Spark driver that uses the archive, or "" if there is none."""
    archive = find(settings, java)
    return f'"-XX:SharedArchiveFile={archive}" -Xshare:auto -Xlog:cds=off -Xlog:class+path=off' if archive else ""


def find(settings: Settings, java: Java) -> Path | None:
    """Return the archive for this Java and these jars, if it exists and is complete."""
    stem = "-".join(_key(settings, java))
    archives = _folder(settings).glob(f"{stem}-*.jsa")
    return next((path for path in archives if path.stem.rpartition("-")[2] == str(path.stat().st_size)), None)


def ensure(settings: Settings, java: Java, progress: Progress | None = None) -> None:
    """Create the archive if it is missing. Drivers work without it: a failure is only logged."""
    base = java.home / "lib" / "server" / "classes.jsa"  # the JVM's own archive, which this one extends
    if find(settings, java) or not base.exists():
        return
    report = progress or (lambda _stage, _fraction: None)
    report(STAGE, None)
    folder = _folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with jars.locked(folder / ".lock"):
            if not find(settings, java):
                _make(settings, java, folder)
    except OSError as error:
        log.warning("Spark's classes could not be archived (%s): drivers start more slowly without the archive.", error)
    report(STAGE, 1.0)


def _make(settings: Settings, java: Java, folder: Path) -> None:
    prefix, key = _key(settings, java)
    aside, output_file = folder / f".{prefix}.new", folder / f"{prefix}.log"
    aside.unlink(missing_ok=True)
    command = [sys.executable, "-m", "headrace.driver.rehearsal", str(aside), jars.spark_class_path(settings)]
    environment = dict(child_environment(java)) | spark_conf.local_environment() | {"PYSPARK_PYTHON": sys.executable}
    try:
        with output_file.open("w") as output:
            subprocess.run(
                command, env=environment, cwd=folder, stdout=output, stderr=output, timeout=TIMEOUT_SECONDS, check=True
            )
    except subprocess.SubprocessError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"the rehearsal failed, see {output_file}") from error
    for old in folder.glob(f"{prefix}-*.jsa"):
        old.unlink()
    aside.replace(folder / f"{prefix}-{key}-{aside.stat().st_size}.jsa")


def _key(settings: Settings, java: Java) -> tuple[str, str]:
    """Return the prefix of this environment's archives, and the key of what an archive is valid for."""
    brought = jars.pyspark_jars()
    listed = sorted(brought.glob("*.jar")) + [
        jars.folder("spark", settings) / jar.file_name for jar in jars.read_list("spark")
    ]
    facts = [str(java.home), java.version]
    facts.extend(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in listed if path.exists())
    return _digest([str(brought), str(settings.cache)]), _digest(facts)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _folder(settings: Settings) -> Path:
    return settings.cache / "classes"
