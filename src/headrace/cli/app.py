"""`headrace`: the local platform and its streams from the command line.

Every command that prints state has --json. Exit codes: 0 success, 1 refused or failed (with a message on stderr),
2 wrong usage, 3 something that should run does not (`status`, `stream status`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from headrace.access.bindings import read_kafka
from headrace.cli.batch import batch, serve_query
from headrace.cli.checkpoint import checkpoint
from headrace.cli.common import (
    NOT_RUNNING,
    Json,
    console,
    deployed,
    errors,
    left_out,
    on_a_cluster,
    pairs_of,
    pipelines_of,
    print_json,
    print_result,
    progress_bars,
    project,
    startable_pipelines,
    this_machine,
)
from headrace.cli.dead_letters import letters
from headrace.cli.pipeline import pipeline
from headrace.cli.provision import provision
from headrace.cli.quality import quality
from headrace.cli.stream import stream
from headrace.cli.users import users
from headrace.contract.files import pipeline_names
from headrace.contract.model import Pipeline
from headrace.contract.wording import printable
from headrace.errors import HeadraceError
from headrace.local import airflow_config, launcher, platform
from headrace.local import doctor as checks
from headrace.local.settings import Settings
from headrace.operations import clients, tables
from headrace.operations.deployment import Deployment
from headrace.operations.produce.summary import SendSummary, UndeliveredError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Operate the Headrace data platform, on this machine or on a cluster.",
)
app.add_typer(pipeline, name="pipeline")
app.add_typer(stream, name="stream")
app.add_typer(checkpoint, name="checkpoint")
app.add_typer(batch, name="batch")
app.add_typer(letters, name="dead-letters")
app.add_typer(quality, name="quality")
app.add_typer(users, name="users")
app.command()(provision)

_OK, _NO = Text("ok", style="green"), Text("no", style="red")


def main() -> None:
    """Run the command line; print a HeadraceError as its message.

    If a command skipped a pipeline whose file does not load, it finishes the others and exits with code 1.
    """
    try:
        app()
    except SystemExit as end:
        if left_out and not end.code:
            sys.exit(1)
        raise
    except HeadraceError as error:
        errors.print(*str(error).split("\n"), sep="\n", style="red", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def up(as_json: Json = False) -> None:
    """Start Kafka, Cassandra and Airflow. Adopt running servers and restart crashed ones."""
    settings = this_machine("up", "Use Terraform or Helm: docs/howto/deploy.md.")
    first = settings.airflow and not airflow_config.password_file(settings).exists()
    with progress_bars() as report:
        parts = platform.up(settings, report)
    _show_parts(parts, as_json)
    if settings.airflow and not as_json:
        console.print(airflow_config.welcome(settings, with_password=first), soft_wrap=True)


@app.command()
def down() -> None:
    """Stop Airflow, all drivers, then Kafka and Cassandra. Nothing is lost: after `up` the streams continue."""
    settings = this_machine("down", "To stop the streams: `headrace stream stop`.")
    with progress_bars() as report:
        platform.stop_scheduling(settings, report)
        drivers = launcher.launcher(settings, Path().resolve())
        for name in drivers.running():
            report(f"stopping driver {name}", None)
            drivers.stop(name)
        platform.down(settings, report)
    console.print("All drivers and servers are stopped.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the state of Kafka, Cassandra and Airflow; on a cluster, of Kafka and Cassandra. Exit code 3 if one does not run."""
    if on_a_cluster():
        answers = clients.silent(deployed().bindings)
        parts = [platform.PartStatus(name, "CRASHED" if why else "RUNNING", None, why) for name, why in answers.items()]
    else:
        parts = platform.status(Settings.load())
    _show_parts(parts, as_json)
    if any(part.state != "RUNNING" for part in parts):
        raise typer.Exit(NOT_RUNNING)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="kafka, cassandra, airflow-scheduler ... or a pipeline.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
) -> None:
    """Print the log of a server or of a pipeline's driver."""
    deployment = deployed()
    if deployment.drivers.kind != "local":
        sys.stdout.write(printable(_pod_log(deployment, name, lines, follow=follow), keep="\t\n") + "\n")
        return
    settings = Settings.load()
    path = launcher.launcher(settings, Path().resolve()).log_file(name)
    if not path.exists() and name not in pipeline_names(project() / "pipelines"):
        path = platform.logs(settings, name)
    if not path.exists():
        raise HeadraceError(f"{name} has no log yet. Start it with `headrace up` or `headrace stream start`.")
    with path.open(errors="replace") as handle:
        for line in handle.readlines()[-lines:]:
            sys.stdout.write(printable(line, keep="\t\n"))
        while follow:
            line = handle.readline()
            if line:
                sys.stdout.write(printable(line, keep="\t\n"))
            else:
                sys.stdout.flush()
                time.sleep(0.3)


def _pod_log(deployment: Deployment, name: str, lines: int, *, follow: bool) -> str:
    if follow or name not in pipeline_names(deployment.project / "pipelines"):
        raise HeadraceError(
            "On a cluster this command shows the log of a pipeline's driver. For all else use `kubectl logs`."
        )
    return deployment.launcher().log_tail(name, lines)


@app.command()
def clean(
    cache: Annotated[bool, typer.Option("--cache", help="Also remove the cached jars and class archives.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove all data, checkpoints, logs and passwords of this platform. Refused while something runs."""
    settings = this_machine("clean", "Use `terraform destroy`: docs/howto/deploy.md.")
    if not yes:
        typer.confirm(f"Remove {settings.home} and everything in it?", abort=True)
    platform.clean(settings, cache=cache)
    console.print(f"{settings.home} is removed.")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and this installation without changing anything. Exit code 1 if `up` could not start."""
    results = checks.run(Settings.load())
    rows = [(_OK if c.ok else _NO, c.name, c.detail, "" if c.ok else c.remedy) for c in results]
    print_result(results, ("", "check", "result", "remedy"), rows, as_json=as_json)
    if any(not check.ok and check.blocks for check in results):
        raise typer.Exit(1)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="Folder with pipelines/ and spark_jobs/; default: this project.")
    ] = Path(),
) -> None:
    """Check pipeline files and plan their queries, to verify that transforms return the declared columns. Needs no server."""
    drivers = launcher.starting_launcher(Settings.load(), Path().resolve())
    command = [sys.executable, "-m", "headrace.driver.check", str(folder)]
    environment = {**drivers.environment, "PYSPARK_PYTHON": sys.executable}
    raise typer.Exit(subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode)


@app.command()
def produce(
    file: Annotated[
        Path | None, typer.Option(help="NDJSON, JSON, CSV or Parquet file to send instead of generated events.")
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Topic of --file, or topics to generate (default: all).")
    ] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Total number of records over all topics.")] = None,
    duration: Annotated[float, typer.Option(min=0.1, help="Length of the generated timeline in seconds.")] = 60.0,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Records per second. Default: as fast as possible.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and start produce the same bytes.")] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of the generated events, such as late=0.05, skew=0 or users=100.",
        ),
    ] = None,
    users: Annotated[bool, typer.Option(help="First load the known users into the users table.")] = True,
    as_json: Json = False,
) -> None:
    """Send generated events, or your own file, and show which offsets Kafka acknowledged.

    A malformed row is sent unchanged and becomes a dead letter. Exit code 1 if a row could not be sent.
    """
    from headrace.operations.produce import mix as mixes
    from headrace.operations.produce import run

    deployment, pipelines = deployed(), pipelines_of()
    kafka = read_kafka(deployment.bindings)
    with _bar("events acknowledged") as report:
        if file is not None:
            if not topic or len(topic) != 1:
                raise HeadraceError("--file needs exactly one --topic.")
            try:
                summary = run.produce_file(kafka, pipelines, file, topic[0], rate, report)
            except UndeliveredError as error:  # also show what reached Kafka and which rows are bad
                _show_summary(error.summary, as_json)
                raise
        else:
            options = {"seed": seed, "duration": duration, **pairs_of("--set", "FIELD=VALUE", option)}
            mix = mixes.make_mix(topic, events, **options)
            if users and "logins" in mix.topics:
                _load_users(deployment, pipelines, mix)
            summary = run.produce_generated(kafka, pipelines, mix, rate, report)
    _show_summary(summary, as_json)
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.odd.left:
        raise typer.Exit(1)


def _show_summary(summary: SendSummary, as_json: bool) -> None:
    if as_json:
        print_json(summary.result())
        return
    console.print(tables.produced(summary))
    for line in tables.odd_rows(summary.odd):
        console.print(line, soft_wrap=True)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=10, help="How long to watch.")] = 120.0,
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 190.0,
) -> None:
    """Start everything, produce events, and show the streams live. Leaves the platform running."""
    from headrace.demo.screen import run

    settings = this_machine("demo", "Send records with `headrace produce`.")
    with progress_bars() as report:
        platform.up(settings, report)
    run(settings, launcher.starting_launcher(settings, Path().resolve()), startable_pipelines(), seconds, rate, console)


def _load_users(deployment: Deployment, pipelines: Mapping[str, Pipeline], mix: Any) -> None:  # noqa: ANN401
    from headrace.operations.dimensions import load_users
    from headrace.operations.produce.accounts import user_directory

    load_users(deployment.bindings, pipelines["user_logins"].dimensions["users"], user_directory(mix))


def _show_parts(parts: Sequence[platform.PartStatus], as_json: bool) -> None:
    rows = [
        (
            p.name,
            tables.coloured(p.state),
            p.port,
            p.pid,
            p.rss and f"{p.rss / 1e6:,.0f} MB",
            tables.seconds(p.uptime),
            p.detail,
        )
        for p in parts
    ]
    print_result(parts, ("part", "state", "port", "process", "memory", "up for", ""), rows, as_json=as_json)


@contextmanager
def _bar(text: str) -> Iterator[Any]:
    """Show a progress bar with the completed and total counts."""
    with Progress(TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors) as progress:
        task = progress.add_task(text, total=None)

        def report(now: Any) -> None:  # noqa: ANN401 - a Progress of operations.produce
            progress.update(task, total=now.total, completed=now.acknowledged)

        yield report


app.command("serve-query")(serve_query)


if __name__ == "__main__":
    main()
