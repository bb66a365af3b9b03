"""`headrace pipeline new|check|export`: write the two files of a pipeline, check all pipeline files, print a contract."""

from __future__ import annotations

import getpass
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.common import Json, Names, console, deployed, errors, print_json
from headrace.contract.load import read_folder
from headrace.errors import HeadraceError
from headrace.operations import tables
from headrace.operations.pipelines import check as checking
from headrace.operations.pipelines import new as making
from headrace.operations.pipelines import odcs
from headrace.operations.pipelines.sample import MOST_RECORDS, SampledColumn, columns_of

pipeline = typer.Typer(
    no_args_is_help=True, help="Pipeline files: begin a new pipeline, check all files, print a contract."
)

One = Annotated[str, typer.Argument(metavar="PIPELINE")]
Folder = Annotated[Path, typer.Option(help="Folder with pipelines/ and spark_jobs/; default: this project.")]


@pipeline.command()
def check(names: Names = None, folder: Folder = Path(), as_json: Json = False) -> None:
    """Check the pipeline files and show what each pipeline creates. Needs no server; `headrace check` also plans the queries.

    Exit codes: 0 every checked file is right; 1 a file has a fault, or a name is unknown.
    """
    result = checking.check(folder, names or ())
    if as_json:
        print_json(result)
    else:
        for created in result.pipelines:
            title = (created.name, f"{created.owner}: {created.description}")
            console.print(tables.plain(title, _rows(created)))
        for fault in result.faults:
            errors.print(fault, style="red", soft_wrap=True)
        if not result.faults:
            right = ", ".join(created.name for created in result.pipelines)
            console.print(f"{len(result.pipelines)} pipelines are right: {right}.", soft_wrap=True)
    if result.faults:
        raise typer.Exit(1)


def _rows(created: checking.Created) -> list[tuple[str, str]]:
    rows = [("topic", f"{topic.name}, {topic.partitions} partitions") for topic in created.topics]
    for table in created.tables:
        keys = table.partition_key + table.clustering_key
        key = ", ".join(f"{name} {table.columns[name]}" for name in keys)
        columns = ", ".join(f"{name} {kind}" for name, kind in table.columns.items() if name not in keys)
        rows.append(("table" if table.written else "table (read)", f"{table.name}: key {key}; {columns}"))
    rows += [("archive", name) for name in created.archives]
    users = created.users
    rows.append(("Kafka user", f"{users.kafka}: {len(users.kafka_rights)} rights"))
    rows.append(("Cassandra role", f"{users.cassandra}: {', '.join(users.cassandra_rights)}"))
    for query in created.queries:
        rows.append(("query", f"{query.name}, {query.mode}: {query.checkpoint}"))
        rows += [("files", query.files)] if query.files else []
    for suite in created.suites:
        rows.append(("suite", f"{suite.name}: {suite.expectations} expectations, {suite.critical} critical"))
    return rows + [("DAG", name) for name in created.dags]


@pipeline.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the pipeline: lower-case letters, digits and _.")],
    sample: Annotated[Path | None, typer.Option("--from", help="Infer the columns from this NDJSON file.")] = None,
    from_topic: Annotated[
        str | None, typer.Option(help=f"Infer the columns from up to {MOST_RECORDS:,} records of a topic.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Topic of the source. Default: NAME_records.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:TYPE", help="A column, with ! if required: amount:decimal(12,2)! May be repeated."),
    ] = None,
    key: Annotated[str, typer.Option(help="Column of the record key. Default: a required id, or text.")] = "",
    event_time: Annotated[str, typer.Option(help="Column of the event time. Default: a required timestamp.")] = "",
    sink: Annotated[
        str,
        typer.Option(help="cassandra, kafka or files. Default: cassandra where there is an event time, else files."),
    ] = "",
    owner: Annotated[str, typer.Option(help="The team to ask. Default: your login name.")] = "",
    description: Annotated[str, typer.Option(help="What the pipeline is for, in a sentence.")] = "",
    as_json: Json = False,
) -> None:
    """Write pipelines/NAME.yaml and spark_jobs/NAME.py. The columns come from a sample, from --column, or from questions.

    It overwrites nothing. Exit codes: 0 both files are written; 1 refused, and nothing is written.
    """
    if sum(map(bool, (sample, from_topic, column))) > 1:
        raise HeadraceError("--from, --from-topic and --column exclude each other: give one of them.")
    topic = topic or from_topic or f"{name}_records"
    columns = _columns(sample, from_topic, column)
    request = making.NewPipeline(
        name,
        topic,
        columns,
        owner or getpass.getuser(),
        description,
        key,
        event_time,
        sink,  # type: ignore[arg-type]
    )
    written = making.write(Path(), request)
    if as_json:
        print_json(written)
        return
    for path in written:
        console.print(f"Written: {path}", soft_wrap=True)
    console.print("Next: edit both files, then `headrace check` and `headrace provision`.", soft_wrap=True)


@pipeline.command()
def export(name: One, folder: Folder = Path(), as_json: Json = False) -> None:
    """Print the contract of a pipeline by the Open Data Contract Standard (YAML): its sinks, columns, keys, promises and checks.

    Exit codes: 0 printed; 1 the name is unknown, or its file does not load.
    """
    described = read_folder(folder / "pipelines").startable(name)
    if as_json:
        print_json(odcs.contract(described))
    else:
        sys.stdout.write(odcs.text(described))


def _columns(sample: Path | None, from_topic: str | None, given: list[str] | None) -> list[SampledColumn]:
    if sample:
        try:
            with sample.open("rb") as file:
                return columns_of(islice(file, MOST_RECORDS))
        except OSError as error:
            raise HeadraceError(f"{sample} cannot be read ({error.strerror}). Name a readable NDJSON file.") from error
    if from_topic:
        from headrace.operations.pipelines.from_topic import records

        return columns_of(records(deployed().bindings, from_topic))
    return [making.column_of(text) for text in given or _asked()]


def _asked() -> list[str]:
    """Ask for the columns. Raises HeadraceError where no person is at the keyboard."""
    if not is_terminal():
        raise HeadraceError("No columns: give --from FILE, --from-topic TOPIC, or --column NAME:TYPE.")
    console.print("Columns as NAME:TYPE, with ! if required, such as order_id:string! An empty line ends the list.")
    columns: list[str] = []
    while text := typer.prompt(f"Column {len(columns) + 1}", default="", show_default=False):
        making.column_of(text)
        columns.append(text)
    if not columns:
        raise HeadraceError("A source has at least one column. Nothing is written.")
    return columns


def is_terminal() -> bool:
    """Return whether a person can answer."""
    return sys.stdin.isatty()
