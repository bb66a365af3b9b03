"""Build Data Docs from the kept reports. One task writes them after the checks, so two tasks never write the same site."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from headrace.operations.quality.suites import Suite
from headrace.operations.quality.summary import Report
from headrace.store import paths, records, small_files
from headrace.store.records import Json


def build(root: str, suites: Iterable[Suite]) -> str:
    """Write the site of all kept reports of these suites to `<root>/quality/docs` and return its first page.

    The site is built in a temporary folder first. Then existing pages are replaced, the first page last.
    """
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.data_context.types.base import ProgressBarsConfig

    with tempfile.TemporaryDirectory() as scratch:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for site in list(context.get_site_names()):
            context.delete_data_docs_site(site)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": scratch}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        context.add_data_docs_site(
            "quality", {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
        )
        for suite in suites:
            reports = _reports(root, suite.name)
            if not reports:
                continue
            context.suites.add(ExpectationSuite(**records.to_json(suite)))
            for report in reports:
                _add(context, suite.name, report)
        context.build_data_docs()
        _copy(Path(scratch), paths.quality_docs(root))
    return f"{paths.quality_docs(root)}/index.html"


def page_of(sink: str, window: str, checked_at_ms: int) -> str:
    """Return the path of a check's page, relative to the first page, as Great Expectations names it."""
    at = _run_time(checked_at_ms).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"validations/{sink.replace('.', '/')}/{_run_name(window)}/{at}/{sink}.html"


def _run_name(window: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "-", window)


def _run_time(checked_at_ms: int) -> datetime:
    return datetime.fromtimestamp(checked_at_ms / 1000, UTC)


def _reports(root: str, sink: str) -> list[Report]:
    folder = paths.quality_results(root, sink)
    names = (name for name in small_files.list_names(folder) if name.endswith(".json"))
    return [report for name in names if (report := records.read(Report, f"{folder}/{name}"))]


def _add(context: Any, sink: str, report: Report) -> None:  # noqa: ANN401 - a GX context
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    result = expectationSuiteValidationResultSchema.load(escaped(report.result))
    run = RunIdentifier(_run_name(report.summary.window.name), _run_time(report.summary.checked_at_ms))
    key = ValidationResultIdentifier(ExpectationSuiteIdentifier(sink), run, sink)
    context.validation_results_store.set(key, result)


def escaped(result: Json) -> Json:
    """Return a result with its values escaped for HTML: Great Expectations writes values into its pages unescaped."""
    results = [
        {name: _escaped(value) if name in {"result", "exception_info"} else value for name, value in outcome.items()}
        for outcome in result["results"]
    ]
    return {**result, "results": results}


def _escaped(value: Any) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, Mapping):
        return {name: _escaped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return escape(value) if isinstance(value, str) else value


def _copy(source: Path, target: str) -> None:
    """Replace the site in `target` by the site in `source`. Pages of deleted reports are removed last."""
    fs, folder = small_files.locate(target)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    written = set()
    for path in sorted(files, key=lambda path: path == source / "index.html"):
        page = f"{folder}/{path.relative_to(source).as_posix()}"
        fs.makedirs(page.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(page, path.read_bytes())
        written.add(page)
    for page in set(fs.find(folder)) - written:
        fs.rm_file(page)
