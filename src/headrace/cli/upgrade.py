"""`headrace stream upgrade`: roll out another release of one pipeline, unattended."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.common import Json, console, print_json, progress_bars, startable_pipelines, starting_launcher, who
from headrace.contract.load import read_folder
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations.drivers import desired_state, upgrade


def stream_upgrade(
    pipeline: Annotated[str, typer.Argument(help="The pipeline to upgrade.")],
    release: Annotated[str, typer.Option(help="Folder with pipelines/ and spark_jobs/. Default: this project.")] = "",
    batches: Annotated[int, typer.Option(min=1, help="Number of batches of each query to watch.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time limit for these batches, in minutes.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Check, stop, snapshot, start, watch; keep the release or roll back. Exit code 1 if it was rolled back."""
    settings = Settings.load()
    described = startable_pipelines([pipeline])[pipeline]
    local_launcher = starting_launcher(settings)
    running = desired_state.read(local_launcher.root, pipeline).release
    if release and not (place := local_launcher.project.joinpath(release).resolve()).is_dir():
        raise HeadraceError(f"{place} is not a folder. Name one with pipelines/ and spark_jobs/.")
    old = (
        read_folder(local_launcher.project.joinpath(running) / "pipelines").pipeline(pipeline) if running else described
    )
    with progress_bars() as report:
        done = upgrade.run(
            local_launcher,
            described,
            by=who(),
            release=str(local_launcher.project.joinpath(release).resolve()) if release else "",
            old=old,
            batches=batches,
            seconds=minutes * 60,
            report=lambda text: report(text, None),
            lag=upgrade.behind(local_launcher.root, described, settings.bindings()),
        )
    if as_json:
        print_json(done)
    else:
        to, wanted = done["to"] or "this project", desired_state.read(local_launcher.root, pipeline).want
        watched = f"{pipeline} runs {to}; watched for {done['seconds']} s."
        console.print(watched if done["driver"] else f"{pipeline} will run {to} at its next start; it stays {wanted}.")
