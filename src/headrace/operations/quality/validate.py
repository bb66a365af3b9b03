"""Runs a suite over a frame with Great Expectations, in an ephemeral context, and returns what failed, with the rows' keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from headrace.contract.wording import first_line
from headrace.errors import HeadraceError
from headrace.operations.quality.suites import Suite
from headrace.store import records
from headrace.store.records import Json, Row

if TYPE_CHECKING:
    import pandas as pd

# Failing rows of one expectation that are kept one by one; their number is always reported.
MAX_KEYS = 1_000
# A failing expectation of this severity fails the check; others are shown.
CRITICAL = "critical"


@dataclass(frozen=True)
class Outcome:
    """The result of one expectation. `rows` are the failing ones (at most MAX_KEYS): the key columns and the columns it names."""

    id: str
    type: str
    columns: tuple[str, ...]
    severity: str
    why: str
    success: bool
    unexpected: int = 0
    percent: float = 0.0
    observed: Any = None
    error: str = ""
    rows: tuple[Row, ...] = ()

    @property
    def text(self) -> str:
        """Return the expectation and its columns, for people: not_be_null(product_id)."""
        return f"{self.type.removeprefix('expect_')}({', '.join(self.columns)})"


def validate(
    suite: Suite, frame: pd.DataFrame, key: Sequence[str], parameters: Mapping[str, float]
) -> tuple[list[Outcome], Json]:
    """Return one outcome for each expectation, and Great Expectations' own result in its JSON.

    `key` identifies a row; `parameters` are the values of the suite's $PARAMETERs. An expectation that cannot be evaluated (its
    column is missing) has failed, and `error` says why. Raises HeadraceError for a suite that Great Expectations does not accept
    and for an unknown parameter.
    """
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.exceptions.exceptions import GreatExpectationsError, SuiteParameterError

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset(suite.name)
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
    try:
        loaded = ExpectationSuite(**records.to_json(suite))
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise HeadraceError(
            f"The suite {suite.name} is not valid ({first_line(error)}). Correct `quality:` in the pipeline file."
        ) from error
    # Great Expectations logs unknown types and continues without them.
    kept = {expectation.id for expectation in loaded.expectations}
    lost = [expectation.type for expectation in suite.expectations if expectation.id not in kept]
    if lost:
        raise HeadraceError(
            f"The suite {suite.name} is not valid: Great Expectations does not accept {', '.join(lost)}. Correct the name "
            "or the arguments below `quality:` in the pipeline file."
        )
    try:  # not added to the context, which would give its expectations new ids
        result = batch.validate(
            loaded, expectation_parameters=dict(parameters), result_format={"result_format": "COMPLETE"}
        )
    except SuiteParameterError as error:
        raise HeadraceError(
            f"The suite {suite.name} uses an unknown parameter ({first_line(error)}). Known parameters: "
            f"{', '.join(sorted(parameters))}. Correct `quality:` in the pipeline file."
        ) from error
    outcomes = [_outcome(outcome, frame, key) for outcome in result.results]
    return outcomes, _without_lists(json_safe(result.to_json_dict()))  # type: ignore[no-untyped-call]


def _outcome(result: Any, frame: pd.DataFrame, key: Sequence[str]) -> Outcome:  # noqa: ANN401 - GX
    config, details = result.expectation_config, result.result or {}
    kwargs = config.kwargs
    columns = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    columns += kwargs.get("column_list") or []
    positions = [] if result.success else list(details.get("unexpected_index_list") or [])[:MAX_KEYS]
    shown = list(dict.fromkeys(name for name in (*key, *columns) if name in frame))
    rows = frame.loc[positions, shown].to_dict("records") if positions else []
    return Outcome(
        id=str(config.id),
        type=config.type,
        columns=tuple(columns),
        severity=str(getattr(config.severity, "value", config.severity)),
        why=str((config.meta or {}).get("why", "")),
        success=bool(result.success),
        unexpected=int(details.get("unexpected_count") or 0),
        percent=round(float(details.get("unexpected_percent") or 0), 4),
        observed=json_safe(details.get("details") or details.get("observed_value")),
        error=_error(result.exception_info or {}),
        rows=tuple(json_safe(row) for row in rows),
    )


def _error(info: Mapping[str, Any]) -> str:
    """Return why an expectation could not be judged; Great Expectations nests it by metric."""
    for failure in (info, *(inner for inner in info.values() if isinstance(inner, Mapping))):
        if failure.get("raised_exception"):
            return first_line(failure.get("exception_message"))
    return ""


def _without_lists(result: Json) -> Json:
    """Return the result without the lists of all rows. Its partial lists of 20 rows stay, so the report is small."""
    for outcome in result.get("results", []):
        for name in ("unexpected_list", "unexpected_index_list", "unexpected_index_query"):
            outcome.get("result", {}).pop(name, None)
    return result


def json_safe(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """Return a value as JSON: exact decimals as text, times in ISO form, bytes as hex, NaN and NaT as null."""
    if isinstance(value, Mapping):
        return {str(name): json_safe(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _scalar(value)


def _scalar(value: Any) -> Any:  # noqa: ANN401 - numpy, pandas, dates
    if isinstance(value, Decimal):
        return str(value) if value.is_finite() else None
    if type(value).__name__ in {"NaTType", "NAType"}:
        return None
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return json_safe(value.item()) if hasattr(value, "item") else str(value)
