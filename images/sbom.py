"""Write the bill of materials of an image: CycloneDX 1.6 in JSON, from what the image is built from.

    python images/sbom.py spark|airflow IMAGE:TAG > FILE.cdx.json

It lists the locked Python packages, the checked jars, and the jars of pyspark. It does not list Python itself or the Debian
packages of the base and the Containerfile: the bill says `incomplete`, and a scanner of the image finds those. The same lock,
jars, name and tag give the same bytes: the serial number is derived from the content, and the bill contains no time.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import context
from packaging.markers import Marker

from headrace.local import jars

TARGETS = ("spark", "airflow")
# The environment of the Containerfile's Python, for the markers of the lock.
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}
Component = dict[str, Any]


def bill(target: str, image: str) -> dict[str, Any]:
    """Return the bill of materials of one image, `spark` or `airflow`, that is named `image`, with its tag."""
    name, _, tag = image.rpartition(":")
    spark, airflow = context.lock_parts(context.ROOT)
    packages = pinned(spark + airflow if target == "airflow" else spark)
    components = [python_package(*package) for package in packages]
    (pyspark,) = [component for component in components if component["name"] == "pyspark"]
    pyspark["components"] = [found_jar(path) for path in sorted(jars.pyspark_jars().glob("*.jar"))]
    sets = ("spark", "agent") if target == "airflow" else ("spark",)
    components += [listed_jar(jar) for name in sets for jar in jars.read_list(name)]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "component": {"type": "container", "bom-ref": "image", "name": name, "version": tag},
        },
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
        "compositions": [{"aggregate": "incomplete", "assemblies": ["image"]}],
    }
    content = json.dumps(document, sort_keys=True)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"}


def pinned(lock: str) -> list[tuple[str, str, list[str]]]:
    """Return (name, version, SHA-256 of every file that the lock takes) of the pins that hold in the image."""
    pins = []
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^ ;\\\n]+) *(?:; *([^\\\n]*))?", entry)
        if match and (not (match[3] or "").strip() or Marker(match[3].strip()).evaluate(IMAGE)):
            pins.append((context.normal(match[1]), match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)))
    return pins


def python_package(name: str, version: str, hashes: list[str]) -> Component:
    """Return the component of a locked package. Which of its files pip took is not known here: all that it may take are named."""
    purl = f"pkg:pypi/{name}@{quote(version, safe='')}"
    files = {
        "type": "distribution",
        "url": f"https://pypi.org/project/{name}/{quote(version, safe='')}/#files",
        "comment": "pip takes one of these files and no other",
        "hashes": [_sha256(digest) for digest in sorted(hashes)],
    }
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "externalReferences": [files],
    }


def listed_jar(jar: jars.Jar) -> Component:
    """Return the component of a jar of the committed list."""
    return _jar(jar.sha256, jar.group, jar.artifact, jar.version, jar.classifier)


def found_jar(path: Path) -> Component:
    """Return the component of a jar that pyspark brings: named by what Maven left in it, otherwise by its file and hash alone."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not re.fullmatch(r"META-INF/maven/[^/]+/[^/]+/pom\.properties", name):
                continue
            properties = dict(re.findall(r"^(\w+) *= *(\S+)", archive.read(name).decode(), re.MULTILINE))
            if path.stem == f"{properties.get('artifactId')}-{properties.get('version')}":  # others are shaded into it
                return _jar(digest, properties["groupId"], properties["artifactId"], properties["version"], "")
    return {"type": "library", "bom-ref": f"pyspark/jars/{path.name}", "name": path.name, "hashes": [_sha256(digest)]}


def _jar(digest: str, group: str, artifact: str, version: str, classifier: str) -> Component:
    tail = f"?classifier={quote(classifier, safe='')}" if classifier else ""
    purl = f"pkg:maven/{quote(group, safe='')}/{quote(artifact, safe='')}@{quote(version, safe='')}{tail}"
    return {
        "type": "library",
        "bom-ref": purl,
        "group": group,
        "name": artifact,
        "version": version,
        "purl": purl,
        "hashes": [_sha256(digest)],
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS or ":" not in sys.argv[2]:
        sys.exit("usage: python images/sbom.py spark|airflow IMAGE:TAG")
    json.dump(bill(sys.argv[1], sys.argv[2]), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
