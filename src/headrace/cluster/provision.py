"""Provision all pipelines from inside the cluster: `python -m headrace.cluster.provision`, a Job of the Airflow chart.

The bootstrap Job has created the logins. They are mounted as `<pipeline>.<system>.password` below HEADRACE_LOGINS, and are
set in Kafka and Cassandra here. A password that was rotated since is set again. HEADRACE_PRODUCERS lists the declared
producers as JSON, name -> {topics}; the mount also has their logins, and the users of removed producers.
HEADRACE_CONSENT is a JSON list of topics that may lose data or be adopted (`provision.consent` of the chart).
HEADRACE_RETIRE is a list of pipelines whose files are gone and whose users and rights are removed (`provision.retire`).
A refusal ends the Job at once with exit code 3: another try would be refused too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cassandra.cluster import NoHostAvailable

from headrace.access import bindings
from headrace.access.bindings import CassandraBinding
from headrace.contract import names
from headrace.errors import HeadraceError, exit_with
from headrace.operations import deployment
from headrace.operations.clients import cassandra_session, log_in
from headrace.operations.provision.changes import Change, ConsentNeededError, ProvisionPlan, RefusedError
from headrace.operations.provision.retirement import remote, require_retired
from headrace.operations.provision.run import provision, provision_producer

_PATIENCE_SECONDS = 300.0  # Kafka and Cassandra start at the same time as this Job
_POLL_SECONDS = 5
REFUSED = 3  # exit code of a refusal, after which the Job is not retried


def run(
    admin: Path,
    logins: Path,
    names_of_pipelines: Sequence[str],
    replicas: int,
    producers: Mapping[str, Sequence[str]],
    consented: Collection[str] = (),
    retired: Sequence[str] = (),
) -> list[Change]:
    """Provision and return the changes. Raises HeadraceError if a system stays unreachable or a change is impossible."""
    deployed = deployment.load()
    make_event_log_folder(deployed.drivers.conf)
    described = deployed.folder()
    wanted = [described.startable(name) for name in names_of_pipelines or (*described.pipelines, *described.broken)]
    for name in retired:
        require_retired(name, {*described.pipelines, *described.broken})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for pipeline in wanted:
            for system in ("kafka", "cassandra"):
                secret = bindings.read_password(logins / f"{pipeline.name}.{system}.password")
                bindings.write_private(root / pipeline.name / system / "password", secret)
        changes = provision(wanted, admin, root, replicas, consented)
        for name, topics in producers.items():
            secret = bindings.read_password(logins / f"{names.producer(name)}.kafka.password")
            changes += provision_producer(admin, names.producer(name), secret, topics)
        for user in dropped(logins, producers):
            changes += provision_producer(admin, user, "", [])
        for name in retired:
            with remote(name, admin) as steps:
                changes += ProvisionPlan(steps, retires=name).carry_out([name])
        for pipeline in wanted:
            changes += _rotated(
                admin, pipeline.name, bindings.read_password(root / pipeline.name / "cassandra" / "password")
            )
    return changes


def dropped(logins: Path, producers: Iterable[str]) -> list[str]:
    """Return the users of producers that had a login here and are no longer declared."""
    known = {path.read_text() for path in logins.glob("*.kafka.username")}
    return sorted(filter(names.is_producer, known - set(map(names.producer, producers))))


def make_event_log_folder(conf: Mapping[str, str]) -> None:
    """Create the folder of the drivers' event logs, if they write any: Spark does not start without it."""
    place = conf.get("spark.eventLog.dir", "")
    if conf.get("spark.eventLog.enabled") == "true" and place.startswith("file:/"):
        Path(place.removeprefix("file:")).mkdir(parents=True, exist_ok=True)


def _rotated(admin: Path, pipeline: str, password: str) -> list[Change]:
    """Set the role's password if the mounted one does not log in, because provisioning does not change known passwords."""
    role = names.principal(pipeline)
    login: CassandraBinding = replace(bindings.read_cassandra(admin), username=role, password=password)
    try:
        with log_in(login):
            return []
    except NoHostAvailable:
        pass
    with cassandra_session(admin) as session:
        session.execute(f'ALTER ROLE "{role}" WITH PASSWORD = %s AND LOGIN = true', (password,))
    return [Change(pipeline, "password", role)]


def _consent(topics: Sequence[str]) -> str:
    names_of_topics = ", ".join(f'"{name}"' for name in topics)
    return (
        f"If that is intended, apply again with `provision_consent = [{names_of_topics}]` in Terraform "
        f"(`provision.consent` of chart airflow: `--set 'provision.consent={{{','.join(topics)}}}'`)."
    )


def main() -> int:
    """Provision as soon as both systems answer; print what changed, without secrets."""
    admin = deployment.load().bindings
    logins = Path(os.environ["HEADRACE_LOGINS"])
    producers = {name: spec["topics"] for name, spec in json.loads(os.environ.get("HEADRACE_PRODUCERS", "{}")).items()}
    consented, retired = (json.loads(os.environ.get(name, "[]")) for name in ("HEADRACE_CONSENT", "HEADRACE_RETIRE"))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            changes = run(
                admin,
                logins,
                sys.argv[1:],
                int(os.environ.get("HEADRACE_REPLICAS", "1")),
                producers,
                consented,
                retired,
            )
            break
        except ConsentNeededError as refusal:
            raise RefusedError(f"{refusal.message} {_consent(refusal.names)}", exit_code=REFUSED) from None
        except RefusedError as refusal:
            raise RefusedError(str(refusal), exit_code=REFUSED) from None
        except HeadraceError as refusal:
            if time.monotonic() > deadline:
                raise
            sys.stdout.write(f"not ready yet: {refusal}\n")
            time.sleep(_POLL_SECONDS)
    for change in changes:
        sys.stdout.write(f"{change.pipeline}: {change}\n")
    sys.stdout.write(f"done, {len(changes)} changes\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
