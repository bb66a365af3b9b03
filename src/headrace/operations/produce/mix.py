"""What to generate: topics, numbers, and shares of irregular records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import HeadraceError

# Events per second of the demo. Clicks have no rate: they derive from impressions.
DEMO_RATES: Mapping[str, float] = {"quickstart": 40.0, "pos": 100.0, "logins": 10.0, "impressions": 40.0}
TOPICS = (*DEMO_RATES, "clicks")

Share = Annotated[float, Field(ge=0, le=1)]


class Mix(BaseModel):
    """One plan of events. Shares refer to the records of a topic unless a field says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(1, ge=0, description="The same seed, start and mix produce the same bytes.")
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: dict(DEMO_RATES),
        min_length=1,
        description="Records per second of each topic except clicks.",
    )
    duration: float = Field(60.0, gt=0, description="Length of the plan in seconds.")
    events: dict[str, Annotated[int, Field(gt=0)]] | None = Field(
        None, description="Exact number of records of each topic instead of rate times duration."
    )
    since: timedelta = Field(
        timedelta(minutes=30),
        ge=timedelta(0),
        description="Event time begins this long before the plan and catches up with the clock, so that windows close.",
    )
    catch_up: float | None = Field(
        None, gt=0, description="Seconds of the plan until event time reaches the present. Default: the entire plan."
    )

    late: Share = Field(0.01, description="Later than every watermark of our pipelines: 16 to 60 minutes.")
    delayed: Share = Field(0.02, description="Out of order but within every watermark: 30 seconds to 4 minutes.")
    duplicates: Share = Field(0.01, description="Byte-identical repeats of an earlier record.")
    malformed: Share = Field(0.002, description="Refused by the contract; the kinds alternate.")
    refunds: Share = Field(0.03, description="Sales with a negative amount.")
    unknown_users: Share = Field(0.02, description="Logins of users who are not in the directory.")
    click_through: Share = Field(0.2, description="Share of the impressions that are clicked.")
    slow_clicks: Share = Field(0.05, description="Share of those clicks that come later than 5 minutes.")
    orphan_clicks: float = Field(0.05, ge=0, lt=1, description="Share of clicks without impression.")

    skew: float = Field(
        1.1, ge=0, le=5, description="Zipf exponent of products, users and ads; 0: all equally frequent."
    )
    products: int = Field(500, ge=1, le=20_000)
    users: int = Field(1_000, ge=1, le=1_000_000)
    ads: int = Field(100, ge=1, le=100_000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for topic in {**self.rates, **(self.events or {})}:
            if topic == "clicks":
                raise ValueError("clicks have no rate or number: they derive from impressions and click_through")
            if topic not in TOPICS:
                near = get_close_matches(topic, TOPICS, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown topic {topic!r}{hint} (known topics: {', '.join(TOPICS)})")
        if self.late + self.delayed + self.duplicates + self.malformed > 1:
            raise ValueError("late, delayed, duplicates and malformed are shares of one total: together at most 1")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of records of each topic except clicks."""
        if self.events is not None:
            return dict(self.events)
        return {topic: max(1, round(rate * self.duration)) for topic, rate in self.rates.items()}

    @property
    def expected_records(self) -> int:
        """Return the approximate number of records of the plan, including clicks (a random number)."""
        counts = self.counts
        clicks = counts.get("impressions", 0) * self.click_through / (1 - self.orphan_clicks)
        return sum(counts.values()) + round(clicks)

    @property
    def total_rate(self) -> float:
        """Return the planned records per second over all topics, without clicks."""
        return sum(self.counts.values()) / self.duration

    @property
    def topics(self) -> list[str]:
        """Return the topics that get records."""
        topics = list(self.counts)
        return [*topics, "clicks"] if "impressions" in topics and self.click_through else topics

    def at_rate(self, rate: float) -> Mix:
        """Return the mix with `rate` records per second in total: exact numbers take longer, otherwise all topics scale."""
        if self.events is not None:
            return self.model_copy(update={"duration": sum(self.events.values()) / rate})
        factor = rate / sum(self.rates.values())
        return self.model_copy(update={"rates": {topic: value * factor for topic, value in self.rates.items()}})


def make_mix(
    topics: Collection[str] | None = None,
    events: int | Mapping[str, int] | None = None,
    **options: Any,  # noqa: ANN401
) -> Mix:
    """Create a mix from a user's options.

    `topics` restricts the demo's topics (impressions without clicks: no impression is clicked). `events` is the total number
    of records, divided among the topics by their rates, or the number for each topic. `options` are fields of `Mix`.
    Raises HeadraceError.
    """
    if isinstance(events, Mapping):
        options, events = {**options, "events": dict(events)}, None
    elif events is not None and events < 1:
        raise HeadraceError(f"The number of events must be at least 1, not {events}.")
    if topics is not None:
        options = _limited(list(topics), options)
    try:
        mix = Mix(**options)
        if events is None:
            return mix
        weight = sum(mix.rates.values())
        shared = {topic: max(1, round(events * rate / weight)) for topic, rate in mix.rates.items()}
        return Mix(**{**options, "events": shared})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        where = f"option {field!r} of the generator" if field else "the options of the generator"
        raise HeadraceError(f"Correct {where}: {reason}.") from None


def _limited(topics: list[str], options: dict[str, Any]) -> dict[str, Any]:
    if "clicks" in topics and "impressions" not in topics:
        raise HeadraceError("Clicks derive from impressions. Add the topic impressions.")
    if "impressions" in topics and "clicks" not in topics:
        options = {**options, "click_through": 0.0}
    # An unknown topic gets a rate too, so that the model refuses it with a suggestion.
    given = {**DEMO_RATES, **options.get("rates", {})}
    return {**options, "rates": {topic: given.get(topic, 1.0) for topic in topics if topic != "clicks"}}
