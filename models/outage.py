"""Whether a server is there at all, and serves the model: asked with GET /models.

A call that gets no HTTP finds out here. A dead server is waited for by one of its calls, which
asks it with growing pauses, while all others hold still; those that were under way are asked
again and lose no try.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from config.errors import EndpointDown, ModelNotServed
from config.settings import Endpoint
from models.halt import Halt
from models.transport import BodyTooLong, Reply, Transport, TransportFault
from models.verdicts import is_listed, listed

log = logging.getLogger("vispref.chat")

PROBE_S = 10.0  # a listing takes a server milliseconds, once it is connected to
FIRST_PAUSE_S, PAUSE_GROWS, LONGEST_PAUSE_S = 0.25, 1.5, 10.0
# A server that never answered in this run is more likely a wrong URL than one that starts.
NEVER_REACHED_S = 30.0


class Outage:
    """Used on one event loop. `over` is set unless the server is known to be dead."""

    def __init__(
        self, role: str, endpoint: Endpoint, transport: Transport, halt: Halt,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.who = f"{role} at {endpoint.base_url}"
        self.over = asyncio.Event()
        self.over.set()
        self.ended = 0  # outages so far
        self.reached = False  # whether the server ever said anything
        self.say: Callable[[str], None] = lambda note: None
        self._role, self._endpoint, self._transport = role, endpoint, transport
        self._halt, self._clock = halt, clock
        self._one = asyncio.Lock()
        self._checked: set[str] = set()

    def check_again(self) -> None:
        """The next call to each model asks first whether it is served."""
        self._checked.clear()

    async def check(self, model: str) -> None:
        """Before the first call. Raises ModelNotServed, or EndpointDown after all patience.

        A server that does not list its models says nothing by that.
        """
        if model in self._checked or not self._endpoint.check_model:
            return
        async with self._one:
            self._halt.check()
            if model in self._checked:
                return
            found = await self._probe()
            if isinstance(found, TransportFault) and found.cut:
                await self._wait_for_it(found, found, model)
            else:
                self._refuse_others(found, model)
            self._checked.add(model)

    async def passed(self, fault: TransportFault, ended: int, model: str) -> bool:
        """After a call that was cut off: whether the server was dead, and serves again now.

        ended: of `ended`, what it was when the call was sent. False: the server lives, so the
        fault was the call's own. Raises EndpointDown when patience ends.
        """
        async with self._one:
            self._halt.check()
            if self.ended != ended:
                return True
            found = await self._probe()
            if not isinstance(found, TransportFault) or not found.cut:
                return False
            await self._wait_for_it(fault, found, model)
            return True

    async def _wait_for_it(
        self, fault: TransportFault, said: Reply | TransportFault, model: str
    ) -> None:
        """`fault` began it, `said` is what the first probe found."""
        since, probes, pause = self._clock(), 1, FIRST_PAUSE_S
        began = f"{datetime.now().astimezone():%H:%M:%S}"
        note = f"waiting for {self.who}: {fault} since {began}"
        log.warning("%s", note)
        self.say(note)
        self.over.clear()
        try:
            while (problem := self._problem(said, model)) is not None:
                patience = self._patience()
                waited = self._clock() - since
                if waited >= patience:
                    raise self._halt.stop(self._dead(fault, began, probes, problem, patience))
                await self._halt.sleep(min(pause, patience - waited))
                pause = min(LONGEST_PAUSE_S, pause * PAUSE_GROWS)
                said, probes = await self._probe(), probes + 1
            self.ended += 1
            log.warning("%s serves again after %.0f s", self.who, self._clock() - since)
            self.say("")
        finally:  # with an error, or when this call was cancelled, the others find out themselves
            self.over.set()

    def _problem(self, said: Reply | TransportFault, model: str) -> str | None:
        """Why the server does not serve yet; None once it does."""
        if isinstance(said, TransportFault):
            return str(said)
        if said.status >= 500:
            return f"HTTP {said.status}"
        names = listed(said)
        if names is None or not self._endpoint.check_model or is_listed(model, names):
            return None
        return f"it serves {names}, not {model!r}"

    def _patience(self) -> float:
        patience = self._endpoint.down_patience_s
        return patience if self.reached else min(patience, NEVER_REACHED_S)

    def _dead(
        self, fault: TransportFault, began: str, probes: int, problem: str, patience: float
    ) -> EndpointDown:
        variable = f"VISPREF_{self._role.upper()}"
        if self.reached:
            do = f"start it again, or raise {variable}__DOWN_PATIENCE_S, and run again"
        else:
            do = f"it never answered in this run: start it, or mend {variable}__BASE_URL"
        return EndpointDown(
            f"{self.who} is dead since {began}: {fault}\nAsked {probes} times within "
            f"{patience:g} s whether it serves again, last: {problem}. Nothing done is lost; {do}"
        )

    async def _probe(self) -> Reply | TransportFault:
        url = f"{str(self._endpoint.base_url).rstrip('/')}/models"
        patience = self._endpoint.connect_timeout_s + PROBE_S
        try:
            async with asyncio.timeout(patience):
                reply = await self._transport.get(url)
        except TransportFault as fault:
            return fault
        except TimeoutError:
            return TransportFault(f"no list of models within {patience:g} s", timed_out=True)
        except BodyTooLong:
            reply = Reply(200, {}, b"")  # it serves, and lists more than anyone reads
        self.reached = True
        return reply

    def _refuse_others(self, found: Reply | TransportFault, model: str) -> None:
        names = listed(found) if isinstance(found, Reply) else None
        if names is None or is_listed(model, names):
            return
        raise self._halt.stop(
            ModelNotServed(
                f"{self.who} serves {names}, not {model!r}, which the recipe asks for: name a "
                "served model in the recipe, or serve that one. If the server takes models that "
                f"it does not list, set VISPREF_{self._role.upper()}__CHECK_MODEL=false"
            )
        )

    async def served(self) -> str:
        """What the server says that it serves, in words."""
        found = await self._probe()
        names = listed(found) if isinstance(found, Reply) else None
        return (
            "the server does not list its models" if names is None else f"the server serves {names}"
        )
