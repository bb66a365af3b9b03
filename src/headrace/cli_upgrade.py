"""`headrace stream upgrade`: another release for one pipeline, unattended."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli_common import Json, console, print_json, progress_bars, startable_pipelines, starting_launcher, who
from headrace.contract.load import read_folder
from headrace.errors import HeadraceError
from headrace.local.settings import Settings
from headrace.operations import intent, upgrade


def stream_upgrade(
    pipeline: Annotated[str, typer.Argument(help="The pipeline to upgrade.")],
    release: Annotated[str, typer.Option(help="Folder with pipelines/ and spark_jobs/; empty: this project's.")] = "",
    batches: Annotated[int, typer.Option(min=1, help="Batches of each query to watch.")] = 3,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes that they may take.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Check, stop, snapshot, start, watch; keep the release or roll back. Exit code 1 if the old one runs again."""
    settings = Settings.load()
    described = startable_pipelines([pipeline])[pipeline]
    own = starting_launcher(settings)
    running = intent.read(own.root, pipeline).release
    if release and not (place := own.project.joinpath(release).resolve()).is_dir():
        raise HeadraceError(f"{place} is no folder: name one with pipelines/ and spark_jobs/.")
    old = read_folder(own.project.joinpath(running) / "pipelines").pipeline(pipeline) if running else described
    with progress_bars() as report:
        done = upgrade.run(
            own,
            described,
            by=who(),
            release=str(own.project.joinpath(release).resolve()) if release else "",
            old=old,
            batches=batches,
            seconds=minutes * 60,
            report=lambda text: report(text, None),
            lag=upgrade.behind(own.root, described, settings.bindings()),
        )
    if as_json:
        print_json(done)
    else:
        to, wanted = done["to"] or "this project", intent.read(own.root, pipeline).want
        watched = f"{pipeline} runs {to}; watched for {done['seconds']} s."
        console.print(watched if done["driver"] else f"{pipeline} will run {to}; it is {wanted} and stays so.")
