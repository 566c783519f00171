"""One run on one root: what it is, what it records, and its stages in order."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from config.errors import RecipeError, StageStopped, StorageError
from config.recipe import Recipe
from config.settings import ROLES, Role, Settings, check_prices
from models.budget import BudgetGuard
from models.chat import ChatClient
from models.identity import identify
from sources.spec import InputSpec
from stages.base import CallStage, Progress, Work
from stages.caption import CaptionStage
from stages.chain import Chain, make_chain
from stages.extract import ExtractStage
from stages.resample import ResampleStage
from stages.rewrite import RewriteStage
from storage.catalog import CURRENT, read_current
from storage.images import ImageStore
from storage.lock import hold
from storage.responses import ResponseCache
from storage.root import Root

CALL_STAGES: tuple[CallStage, ...] = (
    CaptionStage(),
    ResampleStage(),
    ExtractStage(),
    RewriteStage(),
)

SPENT = "spent.json"  # under runs/<run>/
log = logging.getLogger("vispref.run")

RECORDED_PACKAGES = (
    "vispref", "torch", "transformers", "open_clip_torch", "faiss-cpu", "faiss-gpu", "numpy",
    "pillow", "pyarrow", "duckdb", "openai", "prefect",
)  # fmt: skip


def new_run_id() -> str:
    """Sorts by time, never repeats."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def chain_of(recipe: Recipe, settings: Settings) -> Chain:
    """The recipes of all stages; hashes the encoders' weights, or remembers their digests."""
    embed = recipe.embed
    if recipe.mine.strategy == "blind" and embed.dino_model is None:
        raise RecipeError("mine.strategy is 'blind', which needs embed.dino_model; none is given")
    clip = identify("clip", embed.clip_model, settings.cache_dir).as_dict()
    dino = None
    if embed.dino_model is not None:
        dino = identify("dino", embed.dino_model, settings.cache_dir).as_dict()
    return make_chain(recipe, clip, dino)


def open_work(
    root: Root, recipe: Recipe, settings: Settings, progress: Progress | None = None
) -> Work:
    """A run that has read nothing yet; its rows are those of the root's newest ingest."""
    current = read_current(root)
    return Work(
        root=root,
        chain=chain_of(recipe, settings),
        settings=settings,
        run_id=new_run_id(),
        ingest=current["ingest"],
        progress=progress or Progress(),
    )


def record_start(work: Work, spec: InputSpec | None) -> None:
    """Writes what every digest stands for, what this run is, and makes it the current one.

    Called under the root's lock: the rows are those of the newest ingest now, which another run
    may have made while this one waited. What killed runs left in `work/` is removed.
    """
    _ = work.root.id  # a root of another format is refused before anything is written
    work.ingest = read_current(work.root)["ingest"]
    for left in work.root.list("work"):
        work.root.remove(left)
    for stage, parts in work.chain.recipes.items():
        path = f"recipes/{stage}/{work.chain.of(stage)}.json"
        if not work.root.exists(path):
            work.root.write_json(path, parts)
    work.root.write_json(f"runs/{work.run_id}/run.json", {
        "run": work.run_id,
        "root": work.root.id,
        "recipe": work.recipe.model_dump(mode="json"),
        "recipe_digest": work.recipe.digest,
        "digests": work.chain.digests,
        "settings": public_settings(work.settings),
        "versions": versions(),
    })  # fmt: skip
    current = read_current(work.root)
    work.root.write_json(CURRENT, {
        **current,
        "run": work.run_id,
        "recipe": work.recipe.model_dump(mode="json"),
        "digests": work.chain.digests,
        "input": asdict(spec) if spec is not None else current.get("input"),
    })  # fmt: skip


def record_end(work: Work, outcome: str) -> None:
    """Writes the run's receipt: counts, tokens and cost by stage."""
    stages = [stage.as_dict() for stage in work.progress.stages.values()]
    work.root.write_json(f"runs/{work.run_id}/receipt.json", {
        "run": work.run_id,
        "outcome": outcome,
        "stages": stages,
    })  # fmt: skip
    work.root.remove(f"work/{work.run_id}")


def public_settings(settings: Settings) -> dict[str, Any]:
    """The settings without any key."""
    found: dict[str, Any] = settings.model_dump(mode="json")
    for role in ROLES:
        found[role].pop("api_key")
        found[role].pop("serve_command")  # how a server is started, perhaps with its key
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # faiss comes as one of two packages
    return found


@asynccontextmanager
async def holding(work: Work, *, wait: bool, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Holds the root for writing without stopping the event loop while it waits."""
    lock = hold(work.root, work.run_id, wait=wait, say=say)
    await asyncio.to_thread(lock.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(lock.__exit__, None, None, None)


@dataclass
class Clients:
    """One client a role that has an endpoint, over one cache and one budget."""

    by_role: dict[Role, ChatClient]
    images: ImageStore
    cache: ResponseCache

    def of(self, stage: CallStage) -> ChatClient | None:
        return self.by_role.get(stage.role)

    def stop(self, why: StageStopped) -> None:
        """Sends nothing more; calls on the wire are waited for."""
        for client in self.by_role.values():
            client.stop(why)

    async def aclose(self) -> None:
        for client in self.by_role.values():
            await client.aclose()
        self.cache.close()


@asynccontextmanager
async def open_clients(work: Work) -> AsyncIterator[Clients]:
    """A role without an endpoint has no client; only a stage with pending rows asks for one.

    Raises RecipeError for a budget in dollars where no endpoint has a price, and for a
    `limits_dir` that is no place for files.
    """
    for role in check_prices(work.settings):
        log.warning("%s has no price: the budget in dollars does not count its calls", role)
    cache = ResponseCache(work.settings.cache_dir)
    kept, told = cache.spent(work.root.id), spent_by_runs(work.root)
    dollars, tokens = max(kept[0], told[0]), max(kept[1], told[1])
    budget = BudgetGuard(work.settings.budget, dollars, tokens)
    images = ImageStore(work.root)
    limits = _limits_root(work.settings)
    clients = Clients({}, images, cache)
    for role in ROLES:
        if work.settings.endpoint(role).base_url is None:
            continue
        clients.by_role[role] = ChatClient(
            role, work.settings.endpoint(role), cache=cache, budget=budget, images=images,
            payer=work.root.id, limits=limits,
        )  # fmt: skip
    work.listeners.append(clients.stop)
    try:
        yield clients
    finally:
        work.listeners.remove(clients.stop)
        await clients.aclose()
        _record_spending(work, budget.dollars - dollars, budget.tokens - tokens)


def _limits_root(settings: Settings) -> Root:
    try:
        return Root(settings.limits_folder)
    except StorageError as error:
        raise RecipeError(f"VISPREF_LIMITS_DIR: {error}") from error


def spent_by_runs(root: Root) -> tuple[float, int]:
    """Dollars and tokens by the records of ended runs, whichever cache they used.

    The cache knows what a killed run spent as well, but another machine has another cache.
    """
    records = [root.read_json(f"{run}/{SPENT}") for run in root.list("runs")]
    found = [record for record in records if record is not None]
    return sum(r["dollars"] for r in found), sum(r["tokens"] for r in found)


def _record_spending(work: Work, dollars: float, tokens: int) -> None:
    if tokens == 0:
        return
    try:
        work.root.write_json(f"runs/{work.run_id}/{SPENT}", {"dollars": dollars, "tokens": tokens})
    except StorageError as error:  # the reason why the run ends is told, not this one
        log.warning("what this run spent stands in the response cache alone: %s", error)
