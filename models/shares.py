"""An endpoint's limits, divided among the processes that call it. Pure.

Members may disagree for a while about who is there. Each is strict all the same: as long as every
member that sends is in the view of every other one, the shares add up to no more than the limit,
because a share never grows when its member's view does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from config.settings import Endpoint


@dataclass(frozen=True, slots=True)
class Limits:
    """What an endpoint, or one process's share of it, may be asked. None: no limit.

    A share of 0 calls at once is that of a member which must wait for its turn.
    """

    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None


def limits_of(endpoint: Endpoint) -> Limits:
    return Limits(endpoint.concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute)


def share_of(me: str, members: Mapping[str, Limits]) -> Limits:
    """The share of the member `me`, one of `members`, each with the limits it was given.

    Where they were given different ones, the lowest holds: the endpoint is one and the same.
    """
    slots, left_over = divmod(min(m.concurrency for m in members.values()), len(members))
    return Limits(
        slots + (sorted(members).index(me) < left_over),
        _part([m.requests_per_minute for m in members.values()]),
        _part([m.tokens_per_minute for m in members.values()]),
    )


def _part(rates: list[float | None]) -> float | None:
    given = [rate for rate in rates if rate is not None]
    return min(given) / len(rates) if given else None
