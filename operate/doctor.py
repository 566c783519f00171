"""`vispref doctor`: every check, in an order in which the first failure explains the later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.settings import get_current_settings

from config.errors import VisprefError
from config.recipe import Recipe, load_recipe, parse_recipe
from config.settings import Settings, check_prices, load_settings
from operate.check_endpoints import check_endpoints
from operate.check_machine import check_cache, check_gpus, check_packages, check_places
from operate.check_prefect import check_prefect, check_programs
from operate.findings import Finding, fail, ok, warn
from operate.programs import Address, client_environment, talking_to
from operate.state import DEFAULT, State
from storage.catalog import read_current
from storage.root import Root

Check = Callable[[], Iterable[Finding]]


def examine(
    root_url: str | None, recipe_name: str | None, settings_file: Path | None, folder: Path | None
) -> list[Finding]:
    """All findings. Raises RecipeError for a recipe, and StorageError for a root, that is wrong."""
    root = None if root_url is None else Root(root_url)
    recipe = _recipe(root, recipe_name)
    state = State(folder or DEFAULT)
    findings = list(_guarded("packages", check_packages)) + list(_guarded("GPU", check_gpus))
    try:
        settings = load_settings(settings_file)
    except VisprefError as error:
        findings.append(fail("settings", str(error), "correct what is named"))
        settings = None
    if settings is not None:
        findings += [
            *_guarded("settings", lambda: _settings(settings)),
            *_guarded("places", lambda: check_places(settings, root)),
            *_guarded("response cache", lambda: [check_cache(settings)]),
        ]
    with _prefect(state) as ours:
        if settings is not None:
            findings += _guarded("endpoints", lambda: _awaited(check_endpoints(settings, recipe)))
        findings += _guarded("vispref up", lambda: check_programs(state))
        findings += _guarded("Prefect", lambda: _awaited(check_prefect(ours=ours)))
    return findings


@contextmanager
def _prefect(state: State) -> Iterator[bool]:
    """Prefect's client, set to the server that is named or else runs here; whether it is the latter."""
    api = state.read()["api"] if state.holder() is not None else None
    if api is None or get_current_settings().api.url is not None:
        yield False
        return
    where = Address(api, ours=True)
    with talking_to(where, client_environment(where, None)):
        yield True


def _awaited(check: Awaitable[list[Finding]]) -> list[Finding]:
    async def run() -> list[Finding]:
        return await check

    return asyncio.run(run())


def _recipe(root: Root | None, name: str | None) -> Recipe | None:
    if name is not None:
        return load_recipe(name, {})
    stored = None if root is None or not root.is_local else read_current(root).get("recipe")
    return None if stored is None or root is None else parse_recipe(stored, origin=root.url)


def _settings(settings: Settings) -> list[Finding]:
    try:
        unpriced = check_prices(settings)
    except VisprefError as error:
        return [fail("settings", str(error), "set prices, or a budget in tokens")]
    if unpriced:
        names = ", ".join(unpriced)
        return [warn("settings", f"the budget in dollars does not see {names}", "set their prices")]
    return [ok("settings", "valid")]


def _guarded(what: str, check: Check) -> list[Finding]:
    """A check that breaks is a finding too, and the others go on."""
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a doctor does not fall ill of what it looks at
        told = " ".join(str(error).split())[:300]
        return [fail(what, f"the check broke: {type(error).__name__}: {told}", "report this")]
