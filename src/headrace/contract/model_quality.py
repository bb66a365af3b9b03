"""What a pipeline file declares about data quality: expectations that the contract does not imply."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from headrace.contract import expectation_types


class Expectation(RootModel[dict[str, dict[str, Any]]]):
    """One expectation by its Great Expectations name, with its arguments, and optionally `severity` and `why`."""

    model_config = ConfigDict(frozen=True, strict=True)

    @property
    def type(self) -> str:
        """Return the Great Expectations name, such as expect_column_values_to_be_between."""
        return next(iter(self.root))

    @property
    def declared(self) -> dict[str, Any]:
        """Return all that the file says of it."""
        return self.root[self.type]

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of Great Expectations."""
        return {name: value for name, value in self.declared.items() if name not in expectation_types.OWN_ARGUMENTS}

    @property
    def severity(self) -> str:
        """Return critical (the default) or warning."""
        return str(self.declared.get("severity", "critical"))

    @property
    def why(self) -> str:
        """Return why it is there, in a sentence for an operator."""
        return str(self.declared.get("why", "The pipeline file declares it."))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that it names."""
        return columns_of(self.arguments)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema with every name and argument, for editors."""
        made = handler.resolve_ref_schema(handler(schema))
        kept = {key: made[key] for key in ("title", "description") if key in made}
        made.clear()
        made.update(kept | expectation_types.json_schema())
        return made


def columns_of(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns that the arguments of an expectation name."""
    named = [arguments[name] for name in ("column", "column_A", "column_B") if name in arguments]
    return tuple(named + list(arguments.get("column_list", ())))


Expectations = Annotated[
    list[Expectation],
    Field(
        description=(
            "Expectations that do not follow from the file, by their Great Expectations names: a list of "
            "`expect_column_values_to_be_between: {column: amount, min_value: 0}`, optionally with `severity` and `why`. "
            "Of a query: for each of its sinks. Of a dimension: for a snapshot before it is written."
        )
    ),
]


class Quality(BaseModel):
    """What follows from a failed check of a sink."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    on_critical: Literal["report", "pause"] = Field(
        "report",
        description="After a failed critical expectation: 'report' blocks the sink's asset, 'pause' also the stream.",
    )
