from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from headrace.contract import names
from headrace.contract.model import Pipeline
from headrace.contract.platform_columns import OLD_NAMES
from headrace.store.paths import generation_paths

FORBIDDEN = ("pyspark", "airflow", "cassandra", "great_expectations", "confluent_kafka", "pandas", "pyiceberg")


def test_no_module_of_the_contract_imports_spark_airflow_cassandra_or_great_expectations() -> None:
    code = (
        "import importlib, pkgutil, sys, headrace.contract as c\n"
        "[importlib.import_module(f'headrace.contract.{m.name}') for m in pkgutil.iter_modules(c.__path__)]\n"
        f"print(*[name for name in {FORBIDDEN} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_one_module_spells_the_platforms_columns(project: Path) -> None:
    spelled = re.compile("|".join(rf"['\"]{name}\b" for name in OLD_NAMES))
    assert [path.name for path in (project / "src").rglob("*.py") if spelled.search(path.read_text())] == []


def test_no_two_queries_share_a_name_a_group_or_a_folder(pipelines: dict[str, Pipeline]) -> None:
    pairs = [(pipeline.name, query) for pipeline in pipelines.values() for query in names.query_names(pipeline)]
    for derive in (
        names.query_name,
        names.consumer_group,
        lambda pipeline, query: generation_paths("/root", pipeline, query, 1).checkpoint,
        lambda pipeline, query: generation_paths("/root", pipeline, query, 1).files,
    ):
        assert len({derive(*pair).lower() for pair in pairs}) == len(pairs)


def test_a_new_generation_has_a_new_checkpoint_ledger_and_files() -> None:
    one, two = (generation_paths("s3://bucket", "pos_sales", "items", number) for number in (1, 2))
    assert one.checkpoint == "s3://bucket/checkpoints/pos_sales/items/0001/checkpoint"
    assert not {one.checkpoint, one.ledger, one.files, one.manifest} & {
        two.checkpoint, two.ledger, two.files, two.manifest,
    }  # fmt: skip


def test_every_source_topic_has_one_archive_query(pipelines: dict[str, Pipeline]) -> None:
    assert names.query_names(pipelines["ad_attribution"]) == ["attributed", "archive_impressions", "archive_clicks"]
    assert names.archive_table("ad_attribution", "clicks") == "lake.ad_attribution.archive_clicks"


def test_kubernetes_takes_the_derived_names(pipelines: dict[str, Pipeline]) -> None:
    for name in pipelines:
        for derived in (names.kubernetes_name(name), names.driver_pod(name)):
            assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", derived)
