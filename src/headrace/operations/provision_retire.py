"""Takes back what a pipeline has got whose file is gone: its Kafka user and rights, its Cassandra role, its bindings.

Topics, tables, checkpoints and archives stay: they are data, and nothing here says that nobody needs them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cassandra.cluster import Session
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.contract import bindings, names
from headrace.contract.model import NAME_PATTERN
from headrace.contract.rules import RESERVED_PIPELINES
from headrace.errors import HeadraceError
from headrace.operations import provision_cassandra as in_cassandra
from headrace.operations import provision_kafka as in_kafka
from headrace.operations.clients import cassandra_session, kafka_admin
from headrace.operations.drivers import Launcher
from headrace.operations.provision_plan import Change, Plan, Step

_RISK = "a driver of it can no longer log in"


def leftovers(bindings_root: Path, known: Collection[str]) -> list[str]:
    """Return the pipelines that have bindings and no file. `known` are those with a file, whether it loads or not."""
    if not bindings_root.is_dir():
        return []
    found = {path.name for path in bindings_root.iterdir() if (path / "kafka" / "password").exists()}
    return sorted(found - {*known, *RESERVED_PIPELINES})


@contextmanager
def planned(
    pipeline: str, known: Collection[str], launcher: Launcher, admin_root: Path, bindings_root: Path
) -> Iterator[Plan]:
    """Give the plan that takes a retired pipeline's logins and rights back. It can be carried out while the context is open.

    `known` are the pipelines that have a file. Raises HeadraceError for one of them, for a name that is no pipeline's, and where
    its driver runs.
    """
    require_retired(pipeline, known)
    if launcher.find(pipeline):
        raise HeadraceError(f"The driver of {pipeline} runs: stop it first with `headrace stream stop {pipeline}`.")
    with remote(pipeline, admin_root) as steps:
        folder = bindings_root / pipeline
        if folder.is_dir():
            steps.append(Step(Change(pipeline, "bindings", pipeline, "remove"), partial(shutil.rmtree, folder)))
        yield Plan(steps, retires=pipeline)


def require_retired(pipeline: str, known: Collection[str]) -> None:
    """Raise HeadraceError unless a name may be a pipeline's and no pipeline file has it."""
    if pipeline in known:
        raise HeadraceError(
            f"{pipeline} has a pipeline file: retire a pipeline after you have removed its file; until then `headrace provision` "
            "would give everything back."
        )
    if pipeline in RESERVED_PIPELINES or not re.fullmatch(NAME_PATTERN, pipeline):
        raise HeadraceError(
            f"{pipeline!r} cannot be the name of a pipeline: `headrace provision --plan` names what can go."
        )


@contextmanager
def remote(pipeline: str, admin_root: Path) -> Iterator[list[Step]]:
    """Give the steps that remove a pipeline's Kafka user and rights and its Cassandra role; none where nothing is there."""
    admin, user = kafka_admin(admin_root), names.principal(pipeline)
    administrators = {bindings.read_kafka(admin_root).username, bindings.read_cassandra(admin_root).username}
    if user in administrators:
        raise HeadraceError(f"{user} is the administrator's own login and is not removed.")
    try:
        with cassandra_session(admin_root) as session:
            yield [*kafka_steps(admin, pipeline), *cassandra_steps(session, pipeline)]
    except KafkaException as error:
        raise HeadraceError(
            f"Kafka at {bindings.read_kafka(admin_root).bootstrap_servers} rejected the request: {error.args[0].str()}; see "
            "`headrace status`."
        ) from error


def kafka_steps(admin: AdminClient, pipeline: str) -> list[Step]:
    """Return the steps that withdraw a pipeline's rights in Kafka and remove its user."""
    user = names.principal(pipeline)
    steps = in_kafka.right_steps(admin, pipeline, user, [])
    if in_kafka.has_user(admin, user):
        change = Change(pipeline, "login", f"{user} in Kafka", "remove", risk=_RISK)
        steps.append(Step(change, partial(in_kafka.drop_user, admin, user)))
    return steps


def cassandra_steps(session: Session, pipeline: str) -> list[Step]:
    """Return the step that removes a pipeline's role with its rights. Raises HeadraceError for the role of an administrator."""
    role = names.principal(pipeline)
    found = in_cassandra.role(session, role)
    if found is None:
        return []
    if found.is_superuser:
        raise HeadraceError(f"The Cassandra role {role} is a superuser, so it is no pipeline's, and is not removed.")
    change = Change(pipeline, "login", f"{role} in Cassandra, with its rights", "remove", risk=_RISK)
    return [Step(change, partial(in_cassandra.drop_role, session, role))]
