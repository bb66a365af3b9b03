"""Removes what was provisioned for a pipeline whose file is gone: its Kafka user and rights, Cassandra role, bindings.

Topics, tables, checkpoints and archives stay: they are data that may still be needed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cassandra.cluster import Session
from confluent_kafka.admin import AdminClient

from headrace.access import bindings
from headrace.contract import names
from headrace.contract.model import NAME_PATTERN
from headrace.contract.rules import RESERVED_PIPELINES
from headrace.errors import HeadraceError
from headrace.operations.clients import cassandra_session
from headrace.operations.drivers.interface import Launcher
from headrace.operations.provision import cassandra as in_cassandra
from headrace.operations.provision import kafka as in_kafka
from headrace.operations.provision.changes import Change, ProvisionPlan, ProvisionStep

_RISK = "its driver can no longer log in"


def leftovers(bindings_root: Path, known: Collection[str]) -> list[str]:
    """Return the pipelines that have bindings but no file. `known` are those with a file, even a broken one."""
    if not bindings_root.is_dir():
        return []
    bound = {path.name for path in bindings_root.iterdir() if (path / "kafka" / "password").exists()}
    return sorted(bound - {*known, *RESERVED_PIPELINES})


@contextmanager
def planned(
    pipeline: str, known: Collection[str], launcher: Launcher, admin_root: Path, bindings_root: Path
) -> Iterator[ProvisionPlan]:
    """Yield the plan that removes a retired pipeline's logins and rights. It can be carried out while the context is open.

    `known` are the pipelines that have a file. Raises HeadraceError for one of them, for an invalid pipeline name, and if its
    driver runs.
    """
    require_retired(pipeline, known)
    if launcher.find(pipeline):
        raise HeadraceError(
            f"The driver of {pipeline} is running. Stop it first with `headrace stream stop {pipeline}`."
        )
    with remote(pipeline, admin_root) as steps:
        folder = bindings_root / pipeline
        if folder.is_dir():
            steps.append(
                ProvisionStep(Change(pipeline, "bindings", pipeline, "remove"), partial(shutil.rmtree, folder))
            )
        yield ProvisionPlan(steps, retires=pipeline)


def require_retired(pipeline: str, known: Collection[str]) -> None:
    """Raise HeadraceError unless the name is a valid pipeline name without a pipeline file."""
    if pipeline in known:
        raise HeadraceError(
            f"{pipeline} has a pipeline file. Remove the file before you retire the pipeline; otherwise `headrace provision` "
            "would create everything again."
        )
    if pipeline in RESERVED_PIPELINES or not re.fullmatch(NAME_PATTERN, pipeline):
        raise HeadraceError(
            f"{pipeline!r} is not a valid pipeline name. `headrace provision --plan` lists what can be removed."
        )


@contextmanager
def remote(pipeline: str, admin_root: Path) -> Iterator[list[ProvisionStep]]:
    """Yield the steps that remove a pipeline's Kafka user and rights and its Cassandra role; none if nothing exists."""
    user = names.principal(pipeline)
    administrators = {bindings.read_kafka(admin_root).username, bindings.read_cassandra(admin_root).username}
    if user in administrators:
        raise HeadraceError(f"{user} is the administrator's own login and cannot be removed.")
    with in_kafka.administering(admin_root) as admin, cassandra_session(admin_root) as session:
        yield [*kafka_steps(admin, pipeline), *cassandra_steps(session, pipeline)]


def kafka_steps(admin: AdminClient, pipeline: str) -> list[ProvisionStep]:
    """Return the steps that revoke a pipeline's rights in Kafka and remove its user."""
    user = names.principal(pipeline)
    steps = in_kafka.right_steps(admin, pipeline, user, [])
    if in_kafka.has_user(admin, user):
        change = Change(pipeline, "login", f"{user} in Kafka", "remove", risk=_RISK)
        steps.append(ProvisionStep(change, partial(in_kafka.drop_user, admin, user)))
    return steps


def cassandra_steps(session: Session, pipeline: str) -> list[ProvisionStep]:
    """Return the step that removes a pipeline's role with its rights. Raises HeadraceError for an administrator's role."""
    role = names.principal(pipeline)
    row = in_cassandra.role_of(session, role)
    if row is None:
        return []
    if row.is_superuser:
        raise HeadraceError(
            f"The Cassandra role {role} is a superuser, so it belongs to no pipeline and cannot be removed."
        )
    change = Change(pipeline, "login", f"{role} in Cassandra, with its rights", "remove", risk=_RISK)
    return [ProvisionStep(change, partial(in_cassandra.drop_role, session, role))]
