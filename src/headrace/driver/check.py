"""Plan every query of a pipeline without a server, and compare its transform's result with the file.

`python -m headrace.driver.check FOLDER` checks a folder with pipelines/ and spark_jobs/ (`headrace check`).
The driver does the same before it starts (`declared`); here sources are empty streams and dimensions are empty tables.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from headrace.contract.load import read_folder
from headrace.contract.model import Pipeline, Query
from headrace.contract.names import query_name
from headrace.contract.spark_types import ddl
from headrace.driver import decode, queries, source, spark_plan
from headrace.driver.declared import require_declared, transformed
from headrace.errors import HeadraceError
from headrace.store import spark_conf


def differences(spark: SparkSession, pipeline: Pipeline, transforms: Mapping[str, queries.Transform]) -> list[str]:
    """Return one sentence for each difference between a pipeline's transforms and its file; empty if it may start."""
    faults = []
    for name, query in pipeline.queries.items():
        try:
            frames = empty_frames(spark, pipeline, query)
            frame = transformed(transforms[name], frames, query_name(pipeline.name, name))
            require_declared(frame, pipeline.name, name, query)
        except HeadraceError as error:
            faults.append(str(error))
    return faults


def empty_frames(spark: SparkSession, pipeline: Pipeline, query: Query) -> dict[str, DataFrame]:
    """Return the arguments of the query's transform, by name: streams with the sources' columns, and empty dimensions."""
    frames: dict[str, DataFrame] = {}
    for topic in query.sources:
        contract = pipeline.sources[topic]
        shape = spark.createDataFrame([], decode.accepted_ddl(contract, source.added_columns(query, contract))).schema
        rows = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 1).load()
        typed = rows.selectExpr(
            *(f"CAST(NULL AS {field.dataType.simpleString()}) AS `{field.name}`" for field in shape)
        )
        frames[topic] = source.watermarked(typed, topic, query, contract).alias(spark_plan.SOURCE)
    for dimension in query.dimensions:
        frames[dimension] = spark.createDataFrame([], ddl(pipeline.dimensions[dimension].columns))
    return frames


def planning_conf(pipeline: Pipeline) -> dict[str, str]:
    """Return the driver's settings that affect a plan and its types. Catalogs need servers and are left out."""
    wanted = ("spark.sql.session.timeZone", "spark.sql.ansi.enabled", "spark.sql.debug.maxToStringFields")
    conf = spark_conf.spark_conf(pipeline, "file:///")
    return {key: conf[key] for key in wanted}


def main(folder: Path) -> int:
    """Check all pipelines of a folder and print the faults or the names; return the exit code."""
    described = read_folder(folder / "pipelines")
    faults = described.faults()
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    for pipeline in described.pipelines.values():
        for key, value in planning_conf(pipeline).items():
            spark.conf.set(key, value)
        try:
            module = queries.load_module(folder / "spark_jobs" / f"{pipeline.name}.py")
            faults += differences(spark, pipeline, queries.transforms_of(pipeline, module))
        except HeadraceError as error:
            faults.append(str(error))
    spark.stop()
    if faults:
        sys.stderr.write("\n".join(faults) + "\n")
        return 1
    sys.stdout.write(f"{len(described.pipelines)} pipelines are valid: {', '.join(described.pipelines)}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
