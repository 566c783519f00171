"""One process's part in sharing an endpoint's limits with others, from a stage's start to its end.

A joiner sends nothing until every other member's file lists it; a member lists a joiner once it
keeps to what is left to it, calls on the wire included. So at any time every member that sends has
counted every other one that does, and the shares (`models.shares`) add up to no more than the
limit. Growing goes the other way round: first the file no longer lists who is gone, then more
calls start. A member whose file is not renewed in time starts no call until it has joined again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from config.digest import text_digest
from config.errors import StorageError
from models.halt import Halt
from models.shares import Limits, share_of
from models.throttle import Throttle
from storage.members import Member, Members

log = logging.getLogger("vispref.chat")

LOOK_S = 2.0
HURRY_S = 0.2  # while it or another waits for room
T = TypeVar("T")


def folder_of(base_url: str) -> str:
    """An endpoint's folder: of its URL, however it is written."""
    parts = urlsplit(base_url)
    return text_digest(f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}")


class Sharing:
    """`async with Sharing(...)` around the calls. Raises StorageError where it cannot join."""

    def __init__(
        self, members: Members, throttle: Throttle, halt: Halt, who: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._members, self._throttle, self._halt = members, throttle, halt
        self._who, self._say = who, say
        self._thread = ThreadPoolExecutor(1, "limits")  # the common ones may all be at work
        self._admitted = self._hurry = self._told_wait = self._told_fault = False
        self._number = 1
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._members.join)
            await self._look()
        except BaseException as error:
            await self._leave()
            if isinstance(error, StorageError):
                raise StorageError(
                    f"{self._who}: its limits are shared over files that cannot be kept: {error} "
                    "Or set VISPREF_LIMITS_DIR to a folder that can be written."
                ) from error
            raise
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])  # its error, if any, has been told
        await self._leave()

    async def _leave(self) -> None:
        try:
            await self._run(self._members.leave)
        finally:
            self._thread.shutdown(wait=False)
            self._throttle.give(self._throttle.limits, float("inf"))

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An error nobody foresaw would else leave all calls waiting for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._halt.stop(StorageError(f"{self._who}: its limits cannot be kept: {error!r}"))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(HURRY_S if self._hurry else LOOK_S)
            try:
                await self._look()
                self._told_fault = False
            except StorageError as error:
                self._warn_of(error)

    async def _look(self) -> None:
        others = await self._run(self._members.look)
        me = self._members.me
        limits = {me: self._throttle.limits} | {
            name: _limits(member, self._throttle.limits) for name, member in others.items()
        }
        share, everyone = share_of(me, limits), frozenset(limits)
        counted = self._members.counted
        if self._admitted and not everyone <= counted:
            self._throttle.give(share, self._members.until)  # less, before they are listed
        room = self._throttle.slots.in_use <= share.concurrency
        in_time = await self._run(self._members.renew, everyone if room else counted & everyone)
        if not in_time:
            await self._run(self._members.join)
            self._admitted = False
        elif not self._admitted:
            self._admitted = all(me in member.counted for member in others.values())
        self._hurry = not (room and self._admitted)
        self._throttle.give(share if self._admitted else _nothing(share), self._members.until)
        self._tell(share, len(limits))

    def _tell(self, share: Limits, number: int) -> None:
        if number != self._number:
            self._number = number
            log.info("%s is shared by %d processes", self._who, number)
        waits = not self._admitted or share.concurrency == 0
        if waits and not self._told_wait:
            told = (
                f"waiting for {self._who}: {number} processes share it, and its "
                f"{self._throttle.limits.concurrency} calls at once are the others' until they "
                "make room"
            )
            log.warning("%s", told)
            self._say(told)
        elif self._told_wait and not waits:
            self._say("")
        self._told_wait = waits

    def _warn_of(self, error: StorageError) -> None:
        if not self._told_fault:
            self._told_fault = True
            log.warning(
                "%s: its limits are shared over files that cannot be renewed; no call starts "
                "when that lasts: %s", self._who, error,
            )  # fmt: skip


def _limits(member: Member, ours: Limits) -> Limits:
    """A member's limits; where its file does not say them, the same as ours."""
    try:
        return Limits(**member.limits) if member.limits else ours
    except TypeError:  # of another version
        return ours


def _nothing(share: Limits) -> Limits:
    return Limits(0, share.requests_per_minute, share.tokens_per_minute)
