"""The classes of a Spark driver, written down once for all its starts: half of a start's CPU (`streaming.rehearsal`, ADR 0018).

An archive holds for one Java and one class path, which has the paths of the virtual environment in it: its name says so.
A JVM ends at once where the file is cut, so its name has its size too, and a file of another size is never used.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from headrace.contract import submit
from headrace.local import jars
from headrace.local.jars import Progress
from headrace.local.java import Java, child_environment
from headrace.local.settings import Settings

STAGE = "write down Spark's classes (once)"
TIMEOUT_SECONDS = 600
log = logging.getLogger(__name__)


def java_options(settings: Settings, java: Java) -> str:
    """Return the JVM options of a Spark driver that uses its archive, or "" where there is none."""
    archive = find(settings, java)
    return f'"-XX:SharedArchiveFile={archive}" -Xshare:auto -Xlog:cds=off -Xlog:class+path=off' if archive else ""


def find(settings: Settings, java: Java) -> Path | None:
    """Return the archive for this Java and these jars, if it is there and whole."""
    stem = "-".join(_key(settings, java))
    found = _folder(settings).glob(f"{stem}-*.jsa")
    return next((path for path in found if path.stem.rpartition("-")[2] == str(path.stat().st_size)), None)


def ensure(settings: Settings, java: Java, progress: Progress | None = None) -> None:
    """Make the archive where it is missing. Drivers work without: a failure is logged and nothing more."""
    base = java.home / "lib" / "server" / "classes.jsa"  # the JVM's own, to which this one adds
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
        log.warning("Spark's classes could not be written down (%s): drivers start without, and slower.", error)
    report(STAGE, 1.0)


def _make(settings: Settings, java: Java, folder: Path) -> None:
    own, key = _key(settings, java)
    aside, said = folder / f".{own}.new", folder / f"{own}.log"
    aside.unlink(missing_ok=True)
    command = [sys.executable, "-m", "headrace.streaming.rehearsal", str(aside), jars.spark_class_path(settings)]
    environment = dict(child_environment(java)) | submit.local_environment() | {"PYSPARK_PYTHON": sys.executable}
    try:
        with said.open("w") as output:
            subprocess.run(
                command, env=environment, cwd=folder, stdout=output, stderr=output, timeout=TIMEOUT_SECONDS, check=True
            )
    except subprocess.SubprocessError as error:
        aside.unlink(missing_ok=True)
        raise OSError(f"the rehearsal failed, see {said}") from error
    for old in folder.glob(f"{own}-*.jsa"):
        old.unlink()
    aside.replace(folder / f"{own}-{key}-{aside.stat().st_size}.jsa")


def _key(settings: Settings, java: Java) -> tuple[str, str]:
    """Return what tells this environment's archives from others', and what an archive holds for."""
    brought = jars.pyspark_jars()
    listed = sorted(brought.glob("*.jar")) + [
        jars.folder("spark", settings) / jar.file_name for jar in jars.read_list("spark")
    ]
    facts = [str(java.home), java.version]
    facts.extend(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in listed if path.exists())
    return _digest([str(brought), str(settings.cache)]), _digest(facts)


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _folder(settings: Settings) -> Path:
    return settings.cache / "classes"
