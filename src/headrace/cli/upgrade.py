"""`headrace stream upgrade`: roll out another release of one pipeline, unattended."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import Json, console, deployed, print_json, progress_bars, startable_pipelines, who
from headrace.errors import HeadraceError
from headrace.operations.deployment import Deployment
from headrace.operations.drivers import desired_state, upgrade
from headrace.store.records import to_json


def stream_upgrade(
    pipeline: Annotated[str, typer.Argument(help="The pipeline to upgrade.")],
    release: Annotated[
        str,
        typer.Option(
            help="Folder with pipelines/ and spark_jobs/, on a cluster an image. Default: the deployment's own."
        ),
    ] = "",
    batches: Annotated[int, typer.Option(min=1, help="Number of batches of each query to watch.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit for these batches, in minutes.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Check, stop, snapshot, start, watch; keep the release or roll back. Exit code 1 if it was rolled back."""
    described = startable_pipelines([pipeline])[pipeline]
    deployment = deployed(starting=True)
    launcher = deployment.launcher()
    wanted = _release(deployment, release)
    running = desired_state.read(launcher.root, pipeline).release
    with progress_bars() as report:
        done = upgrade.run(
            launcher,
            described,
            by=who(),
            release=wanted,
            old=deployment.pipeline(pipeline, running) if running else described,
            batches=batches,
            seconds=minutes * 60,
            report=lambda text: report(text, None),
            lag=upgrade.behind(launcher.root, described, deployment.bindings),
        )
    if as_json:
        print_json(to_json(done))
    else:
        to, want = done.new or "the deployment's own release", desired_state.read(launcher.root, pipeline).want
        watched = f"{pipeline} runs {to}; watched for {done.seconds} s."
        console.print(watched if done.driver else f"{pipeline} will run {to} at its next start; it stays {want}.")


def _release(deployment: Deployment, release: str) -> str:
    """Return a release as launchers name it: the full path of a folder, or an image; "" is the deployment's own."""
    if not release or deployment.drivers.kind != "local":
        return release
    place = deployment.project.joinpath(release).resolve()
    if not place.is_dir():
        raise HeadraceError(f"{place} is not a folder. Name one with pipelines/ and spark_jobs/.")
    return str(place)
