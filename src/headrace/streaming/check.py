"""Plan every query of a pipeline without a server, and compare its transform's result with the file.

`python -m headrace.streaming.check FOLDER` checks a folder with pipelines/ and spark_jobs/ (`headrace check`).
The driver asks the same before it starts (`declared`); here the sources are empty streams and the dimensions empty tables.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from headrace.contract import submit
from headrace.contract.load import read_folder
from headrace.contract.model import Pipeline, Query
from headrace.contract.names import query_name
from headrace.contract.spark import ddl
from headrace.errors import HeadraceError
from headrace.streaming import decode, plan, queries, source
from headrace.streaming.declared import require_declared, transformed


def differences(spark: SparkSession, pipeline: Pipeline, transforms: Mapping[str, queries.Transform]) -> list[str]:
    """Return one sentence for each difference between a pipeline's transforms and its file; empty if it may start."""
    found = []
    for name, query in pipeline.queries.items():
        try:
            frames = empty_frames(spark, pipeline, query)
            frame = transformed(transforms[name], frames, query_name(pipeline.name, name))
            require_declared(frame, pipeline.name, name, query)
        except HeadraceError as error:
            found.append(str(error))
    return found


def empty_frames(spark: SparkSession, pipeline: Pipeline, query: Query) -> dict[str, DataFrame]:
    """Return what the query's transform gets, by name: streams in the shape of the sources, and empty dimensions."""
    frames: dict[str, DataFrame] = {}
    for topic in query.sources:
        contract = pipeline.sources[topic]
        shape = spark.createDataFrame([], decode.accepted_ddl(contract, source.added_columns(query, contract))).schema
        rows = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 1).load()
        typed = rows.selectExpr(*(f"CAST(NULL AS {each.dataType.simpleString()}) AS `{each.name}`" for each in shape))
        frames[topic] = source.watermarked(typed, topic, query, contract).alias(plan.SOURCE)
    for dimension in query.dimensions:
        frames[dimension] = spark.createDataFrame([], ddl(pipeline.dimensions[dimension].columns))
    return frames


def planning_conf(pipeline: Pipeline) -> dict[str, str]:
    """Return the driver's settings that a plan and its types depend on; catalogs need servers, the rest is no plan's."""
    wanted = ("spark.sql.session.timeZone", "spark.sql.ansi.enabled", "spark.sql.debug.maxToStringFields")
    conf = submit.spark_conf(pipeline, "file:///")
    return {key: conf[key] for key in wanted}


def main(folder: Path) -> int:
    """Check all pipelines of a folder, or say what is wrong; return the exit code."""
    described = read_folder(folder / "pipelines")
    told = described.faults()
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    for pipeline in described.pipelines.values():
        for key, value in planning_conf(pipeline).items():
            spark.conf.set(key, value)
        try:
            module = queries.load_module(folder / "spark_jobs" / f"{pipeline.name}.py")
            told += differences(spark, pipeline, queries.transforms_of(pipeline, module))
        except HeadraceError as error:
            told.append(str(error))
    spark.stop()
    if told:
        sys.stderr.write("\n".join(told) + "\n")
        return 1
    sys.stdout.write(f"{len(described.pipelines)} pipelines are right: {', '.join(described.pipelines)}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
