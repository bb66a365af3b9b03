"""The jars of Kafka, Cassandra and Spark's connectors: downloaded once, verified against a committed list, cached.

`jars_lists/<set>.txt` names every jar with its SHA-256. Exactly that list is downloaded, each jar separately and without
dependencies, so Maven and Ivy cannot disagree. `python -m headrace.local.jars --write-list` regenerates the lists from
ROOTS (needs Maven). Every use of the cache verifies every jar first, and a verified jar enters the cache by one rename:
an incomplete cache is completed, never used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

from headrace.errors import HeadraceError
from headrace.local.java import Java, child_environment
from headrace.local.settings import Settings

Progress = Callable[[str, float | None], None]

LISTS = Path(__file__).parent / "jars_lists"
ALONE = "alone"  # a root without its dependencies
ROOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "kafka": (
        ("org.apache.kafka", "kafka_2.13", "4.3.1"),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),
        (
            "org.apache.kafka",
            "kafka-tools",
            "4.3.1",
            ALONE,
        ),  # its dependencies are Connect and Jetty, which are not needed
    ),
    "cassandra": (("org.apache.cassandra", "cassandra-all", "5.0.9"),),
    "spark": (
        ("org.apache.spark", "spark-sql-kafka-0-10_2.12", "3.5.7"),
        ("com.datastax.spark", "spark-cassandra-connector_2.12", "3.5.1"),
        ("org.apache.iceberg", "iceberg-spark-runtime-3.5_2.12", "1.12.0"),
        ("com.globalmentor", "hadoop-bare-naked-local-fs", "0.1.0", ALONE),  # ADR 0016
        # An object store as storage root (ADR 0023). Hadoop depends on the bundle of all services, 281 MB, but needs only three.
        ("org.apache.spark", "spark-hadoop-cloud_2.12", "3.5.7", ALONE),
        ("org.apache.hadoop", "hadoop-aws", "3.3.4", ALONE),
        ("com.amazonaws", "aws-java-sdk-s3", "1.12.262"),
        ("com.amazonaws", "aws-java-sdk-dynamodb", "1.12.262"),
        ("com.amazonaws", "aws-java-sdk-sts", "1.12.262"),
        ("com.fasterxml.jackson.dataformat", "jackson-dataformat-cbor", "2.15.2"),  # the version of Spark's own Jackson
    ),
    # Metrics of Kafka's and Cassandra's JVMs. 1.0.1 is the newest version in Maven Central.
    "agent": (("io.prometheus.jmx", "jmx_prometheus_javaagent", "1.0.1"),),
}
LOCAL = ("kafka", "cassandra", "spark")  # the sets of a platform on one machine; the images need `spark` and `agent`


@dataclass(frozen=True)
class Jar:
    """One line of a list."""

    sha256: str
    group: str
    artifact: str
    version: str
    classifier: str = ""

    @property
    def file_name(self) -> str:
        """Return the file name, as in a Maven repository."""
        return f"{self.artifact}-{self.version}{'-' + self.classifier if self.classifier else ''}.jar"

    def __str__(self) -> str:
        """Return the line of the list."""
        tail = f":{self.classifier}" if self.classifier else ""
        return f"{self.sha256} {self.group}:{self.artifact}:{self.version}{tail}"


def read_list(set_name: str) -> list[Jar]:
    """Return the committed list of a set, one of ROOTS."""
    lines = (LISTS / f"{set_name}.txt").read_text().splitlines()
    return [Jar(line.split()[0], *line.split()[1].split(":")) for line in lines if line and not line.startswith("#")]


def folder(set_name: str, settings: Settings) -> Path:
    """Return the cache folder of a set; its name changes with the list."""
    digest = hashlib.sha256("\n".join(map(str, read_list(set_name))).encode()).hexdigest()
    return settings.cache / "jars" / f"{set_name}-{digest[:12]}"


def faulty(jars: list[Jar], target: Path) -> list[Jar]:
    """Return the jars that are missing from a folder or differ from the list."""
    return [jar for jar in jars if not _matches(target / jar.file_name, jar.sha256)]


def ensure(set_name: str, settings: Settings, java: Java, progress: Progress | None = None) -> list[Path]:
    """Return the paths of all jars of a set, after downloading those that are missing or damaged.

    Raises HeadraceError if a download fails or differs from the committed list.
    """
    jars, target = read_list(set_name), folder(set_name, settings)
    paths = [target / jar.file_name for jar in jars]
    if not faulty(jars, target):
        return paths
    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(target.with_suffix(".lock")):
            missing = faulty(jars, target)  # another `up` may have downloaded them while this one waited
            if missing:
                _fetch(set_name, missing, target, settings, java, progress or (lambda _stage, _fraction: None))
    except OSError as error:
        raise HeadraceError(
            f"The jar cache {target} cannot be written ({error.strerror or error}). "
            "Free disk space, correct its permissions or set HEADRACE_CACHE to another folder."
        ) from error
    return paths


def spark_jars(settings: Settings) -> list[Path]:
    """Return the verified connector jars for `spark.jars`. Raises HeadraceError if the cache lacks one."""
    jars, target = read_list("spark"), folder("spark", settings)
    if missing := faulty(jars, target):
        raise HeadraceError(
            f"{len(missing)} of {len(jars)} Spark jars are missing or damaged in {target}. "
            "Run `headrace up` to download them."
        )
    return [target / jar.file_name for jar in jars]


def spark_class_path(settings: Settings) -> str:
    """Return the verified connector jars as a class path. Raises HeadraceError if the cache lacks one."""
    return os.pathsep.join(map(str, spark_jars(settings)))


def _fetch(set_name: str, jars: list[Jar], target: Path, settings: Settings, java: Java, progress: Progress) -> None:
    stage = f"fetch {set_name} jars"
    with tempfile.TemporaryDirectory(prefix=f".{set_name}-", dir=target.parent) as aside:
        work, lib = Path(aside), Path(aside) / "lib"
        lib.mkdir()
        maven = shutil.which("mvn")
        command = maven_command(maven, jars, work, lib) if maven else ivy_command(jars, work, lib, settings, java)
        _run(command, work, java, len(jars), lambda done: progress(stage, done))
        if wrong := faulty(jars, lib):
            names = ", ".join(jar.file_name for jar in wrong[:3])
            raise HeadraceError(
                f"{len(wrong)} downloaded {set_name} jar(s) are missing or differ from the committed SHA-256 list "
                f"({names}). Nothing was kept. Check the repository mirror that this machine uses."
            )
        for jar in jars:
            (lib / jar.file_name).replace(target / jar.file_name)
    progress(stage, 1.0)


def maven_command(maven: str, jars: list[Jar], work: Path, lib: Path) -> list[str]:
    """Write a pom that names each jar without dependencies, and return the command that copies them to `lib`."""
    pom = work / "pom.xml"
    pom.write_text(_pom([(jar.group, jar.artifact, jar.version, ALONE, jar.classifier) for jar in jars]))
    goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
    return [maven, "-B", "-f", str(pom), goal, f"-DoutputDirectory={lib}"]


def ivy_command(jars: list[Jar], work: Path, lib: Path, settings: Settings, java: Java) -> list[str]:
    """Write an ivy.xml that names each jar without dependencies, and return the command for pyspark's own Ivy."""
    from headrace.local.trust import trust_store_options

    ivy = next(pyspark_jars().glob("ivy-*.jar"), None)
    if ivy is None:
        raise HeadraceError("Neither Maven nor pyspark's Ivy jar is installed. Install the locked requirements again.")
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for jar in jars:
        grouped.setdefault((jar.group, jar.artifact, jar.version), []).append(jar.classifier)
    dependencies = "\n".join(_ivy_dependency(*coordinates, kinds) for coordinates, kinds in grouped.items())
    descriptor = work / "ivy.xml"
    descriptor.write_text(
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">'
        '<info organisation="headrace" module="jars"/><configurations><conf name="default"/></configurations>'
        f"<dependencies>\n{dependencies}\n</dependencies></ivy-module>\n"
    )
    options = ["-settings", str(settings.ivy_settings)] if settings.ivy_settings else []
    pattern = f"{lib}/[artifact]-[revision](-[classifier]).[ext]"
    return [
        str(java.binary), *trust_store_options(work, java), "-jar", str(ivy), *options, "-ivy", str(descriptor),
        "-confs", "default", "-cache", str(work / "ivy"), "-retrieve", pattern,
    ]  # fmt: skip


def pyspark_jars() -> Path:
    """Return the folder of pyspark's own jars."""
    spec = find_spec("pyspark")
    return Path(spec.origin).parent / "jars" if spec and spec.origin else Path("pyspark-is-not-installed")


def _ivy_dependency(group: str, artifact: str, version: str, classifiers: list[str]) -> str:
    name = escape(artifact)
    artifacts = ""
    for kind in classifiers:
        classifier = f' m:classifier="{escape(kind)}"' if kind else ""
        artifacts += f'<artifact name="{name}" type="jar" ext="jar"{classifier}/>'
    head = f'<dependency org="{escape(group)}" name="{escape(artifact)}" rev="{escape(version)}"'
    return f'{head} transitive="false" conf="default->master">{artifacts}</dependency>'


def _pom(entries: list[tuple[str, ...]]) -> str:
    dependencies = []
    for group, artifact, version, *more in entries:
        alone = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
        classifier = f"<classifier>{escape(more[1])}</classifier>" if len(more) > 1 and more[1] else ""
        dependencies.append(
            f"<dependency><groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"
            f"<version>{escape(version)}</version>{classifier}{alone if ALONE in more else ''}</dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>headrace</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging>"
        "<dependencies>\n" + "\n".join(dependencies) + "\n</dependencies></project>\n"
    )


def _run(command: list[str], work: Path, java: Java, total: int, done: Callable[[float | None], None]) -> None:
    """Run a download command; both tools print one line per downloaded jar."""
    done(None)
    downloaded = 0
    tail: list[str] = []
    environment = {**os.environ, **({} if "JAVA_HOME" in os.environ else child_environment(java))}
    environment["PATH"] = os.environ.get("PATH", environment["PATH"])
    with subprocess.Popen(
        command, cwd=work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        for line in child.stdout or ():
            tail = [*tail[-30:], line.rstrip()]
            if ".jar" in line and ("Downloaded" in line or "downloading" in line):
                downloaded += 1
                done(min(downloaded / total, 0.99))
    if child.returncode:
        reasons = [line for line in tail if "ERROR" in line or "WARN" in line or "Exception" in line] or tail
        raise HeadraceError(
            f"The jars cannot be downloaded ({Path(command[0]).name} exited with code {child.returncode}: "
            f"{' | '.join(reasons[:2]).strip()[:400]}). Check the network and the mirror settings, and try again."
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a part of the cache; other processes wait for it."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _matches(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == sha256
    except OSError:
        return False


def write_lists() -> None:
    """Resolve ROOTS with Maven and write the lists; Spark's list excludes the jars that pyspark itself contains."""
    bundled = {_module(path.name) for path in pyspark_jars().glob("*.jar")}
    for set_name, roots in ROOTS.items():
        with tempfile.TemporaryDirectory() as aside:
            work = Path(aside)
            (work / "pom.xml").write_text(_pom([tuple(root) for root in roots]))
            goal = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"
            options = ["-Dmdep.useRepositoryLayout=true", "-DincludeScope=runtime", f"-DoutputDirectory={work / 'lib'}"]
            subprocess.run(["mvn", "-B", "-q", "-f", str(work / "pom.xml"), goal, *options], check=True)
            paths = sorted((work / "lib").rglob("*.jar"))
            jars = [_described(path, work / "lib") for path in paths]
        kept = [jar for jar in jars if set_name != "spark" or jar.artifact not in bundled]
        head = f"# {set_name}: SHA-256 group:artifact:version[:classifier]; made by headrace.local.jars --write-list"
        (LISTS / f"{set_name}.txt").write_text("\n".join([head, *map(str, kept)]) + "\n")


def _described(path: Path, root: Path) -> Jar:
    *group, artifact, version, name = path.relative_to(root).parts
    classifier = name.removeprefix(f"{artifact}-{version}").removesuffix(".jar").removeprefix("-")
    return Jar(hashlib.sha256(path.read_bytes()).hexdigest(), ".".join(group), artifact, version, classifier)


def _module(file_name: str) -> str:
    parts = file_name.removesuffix(".jar").split("-")
    cut = next((index for index, part in enumerate(parts) if index and part[:1].isdigit()), len(parts))
    # spark-...-0-10_2.12-3.5.7 has digits in its name, so the version is the last part
    return "-".join(parts[:cut])


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-list"]:
        sys.exit("usage: python -m headrace.local.jars --write-list")
    write_lists()
