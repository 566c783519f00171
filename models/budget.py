"""The hard limit on what a dataset root spends: no call starts that could exceed it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from config.errors import BudgetExhausted
from config.settings import Budget


@dataclass(frozen=True, slots=True)
class Amount:
    dollars: float
    tokens: int


class BudgetGuard:
    """Reserves the worst a call can cost before it starts; settles with what it did cost."""

    def __init__(self, limit: Budget, dollars: float, tokens: int) -> None:
        """`dollars` and `tokens` are what the root has spent already."""
        self.limit = limit
        self.dollars, self.tokens = dollars, tokens
        self._reserved_dollars, self._reserved_tokens = 0.0, 0
        self._in_flight = 0
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        return self.limit.dollars is not None or self.limit.tokens is not None

    async def reserve(self, worst: Amount) -> None:
        """Waits while calls in flight may still leave room. Raises BudgetExhausted."""
        if self.limited:
            async with self._changed:
                while not self._fits(worst):
                    if self._in_flight == 0:
                        raise BudgetExhausted(self._message(worst))
                    await self._changed.wait()
        self._reserved_dollars += worst.dollars
        self._reserved_tokens += worst.tokens
        self._in_flight += 1

    async def settle(self, worst: Amount, actual: Amount | None) -> None:
        """Ends a reservation; `actual` is None where nothing was charged."""
        self._in_flight -= 1
        self._reserved_dollars -= worst.dollars
        self._reserved_tokens -= worst.tokens
        if actual is not None:
            self.dollars += actual.dollars
            self.tokens += actual.tokens
        if self.limited:
            async with self._changed:
                self._changed.notify_all()

    def _fits(self, worst: Amount) -> bool:
        slack = 1e-9  # sums of prices are not exact
        dollars, tokens = self.limit.dollars, self.limit.tokens
        if dollars is not None:
            total = self.dollars + self._reserved_dollars + worst.dollars
            if total > dollars + slack:
                return False
        return tokens is None or self.tokens + self._reserved_tokens + worst.tokens <= tokens

    def _message(self, worst: Amount) -> str:
        told, names = [], []
        if self.limit.dollars is not None:
            told.append(
                f"${self.dollars:.4f} of ${self.limit.dollars:.4f} spent, the next call may cost "
                f"${worst.dollars:.4f}"
            )
            names.append("VISPREF_BUDGET__DOLLARS")
        if self.limit.tokens is not None:
            told.append(
                f"{self.tokens:,} of {self.limit.tokens:,} tokens spent, the next call may take "
                f"{worst.tokens:,}"
            )
            names.append("VISPREF_BUDGET__TOKENS")
        return (
            f"the budget is reached: {'; '.join(told)}. Everything paid for is kept; raise "
            f"{' or '.join(names)} and run again to go on"
        )
