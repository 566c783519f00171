"""What one run changes of the settings of the machine it runs on: limits, endpoints, the budget.

A form in the Prefect UI fills these in. They hold no key: a key is named by its Secret block.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from config.settings import ROLES, Endpoint, Settings

Positive = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


class EndpointChanges(BaseModel):
    """Fields left empty stay as the machine has them."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    base_url: str | None = Field(
        default=None,
        description="Another endpoint, up to /v1. On another host the machine's key is not sent.",
    )
    api_key_block: str | None = Field(
        default=None, description="The Prefect Secret block that holds its key. Never a key itself."
    )
    concurrency: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="Calls in flight."
    )
    requests_per_minute: Positive | None = Field(
        default=None, description="The endpoint's own limit."
    )
    tokens_per_minute: Positive | None = Field(
        default=None, description="The endpoint's own limit."
    )
    timeout_s: Positive | None = Field(
        default=None, description="Seconds until a call is given up."
    )
    max_tries: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tries a row has before it fails."
    )
    price_in: Price | None = Field(default=None, description="Dollars per million prompt tokens.")
    price_out: Price | None = Field(default=None, description="Dollars per million answer tokens.")


class BudgetChanges(BaseModel):
    """The root's hard limit over all its runs. Fields left empty stay as the machine has them."""

    model_config = ConfigDict(extra="forbid")

    dollars: Price | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None


class Changes(BaseModel):
    """Changed limits, endpoints and budget, for this run alone."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    captioner: EndpointChanges = EndpointChanges()
    reference: EndpointChanges = EndpointChanges()
    claims: EndpointChanges = EndpointChanges()
    budget: BudgetChanges = BudgetChanges()

    def applied(self, settings: Settings) -> Settings:
        """The settings with these changes. Raises pydantic's ValidationError on a bad value."""
        found: dict[str, Any] = {
            role: _endpoint(settings.endpoint(role), getattr(self, role)) for role in ROLES
        }
        budget = self.budget.model_dump(exclude_none=True)
        found["budget"] = settings.budget.model_copy(update=budget)
        return settings.model_copy(update=found)


def _endpoint(endpoint: Endpoint, changes: EndpointChanges) -> Endpoint:
    given = changes.model_dump(exclude_none=True)
    if not given:
        return endpoint
    kept = endpoint.model_dump()
    if "api_key_block" in given or _elsewhere(endpoint.base_url, given.get("base_url")):
        # A key belongs to the host it was given for.
        kept["api_key"] = kept["api_key_block"] = None
    return Endpoint.model_validate({**kept, **given})


def _elsewhere(before: str | None, after: str | None) -> bool:
    if after is None:
        return False
    if before is None:
        return True
    old, new = urlsplit(before), urlsplit(after)
    return (old.scheme, old.netloc) != (new.scheme, new.netloc)
