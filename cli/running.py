"""Starts runs from the command line: resolves the recipe, keeps Prefect quiet, shows progress."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cli.showing import Planned, print_outcome
from config.errors import InputError, RecipeError, RowError
from config.recipe import Recipe, load_recipe, parse_recipe
from config.settings import load_settings
from sources.spec import InputSpec
from storage.catalog import read_current
from storage.root import Root

Source = dict[str, Any] | None  # the fields of an InputSpec


def source_of(
    location: str | None,
    images_root: str | None,
    prompts: list[str] | None,
    prompts_file: str | None,
    columns: list[str] | None,
    split: str | None,
) -> Source:
    """The input as the flow takes it; None where no input is named."""
    if location is None:
        return None
    if "://" not in location:
        location = os.path.abspath(location)
    spec = InputSpec(
        location=location,
        images_root=images_root,
        prompts=tuple(prompts or ()),
        prompts_file=prompts_file,
        columns=dict(_pair(item, "--column") for item in columns or ()),
        split=split,
    )
    return asdict(spec)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InputError(f"{option} {text!r}: expected NAME=VALUE")
    return name, value


def resolve_recipe(root: Root, name: str | None, overrides: list[str] | None) -> Recipe:
    """The named recipe, or the one the root was last built with, with overrides put in."""
    pairs = [_pair(item, "--set") for item in overrides or ()]
    values = {key: yaml.safe_load(value) for key, value in pairs}
    if name is not None:
        return load_recipe(name, values)
    stored = read_current(root).get("recipe")
    if stored is None:
        raise RecipeError(f"{root.url} was never built: name a recipe, e.g. vispref build symmpo")
    for key, value in values.items():
        section = stored
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return parse_recipe(stored, origin=f"{root.url} with --set")


def quiet_prefect() -> None:
    """Settings of a run in a terminal: said once here, and a user's own environment wins."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # What stops a run is raised to the command line, which says it in one line.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
    # The embedded server is given 20 s by default, which a busy machine overruns.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")


def start_embedded_server() -> None:
    """Starts Prefect's server for this run where no other is set, deaf to Ctrl-C.

    A terminal sends Ctrl-C to every process of the job: a server that ended by it would leave the
    run waiting for it while it says that it stopped. The run itself ends the server when it exits.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    def start() -> None:
        # A blocked signal stays blocked in a child; only this thread's mask is touched.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        SubprocessASGIServer().start()

    if get_current_settings().api.url is None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(start).result()


def quiet_bars() -> None:
    """Hugging Face's own progress bars would be drawn through the table of stages."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def check_retry(retry: dict[str, str | None] | None) -> None:
    """Raises RecipeError for a stage or class of error that no row can have failed with."""
    from stages.chain import CAPTION, EXTRACT, RESAMPLE, REWRITE

    known = {
        "stage": [CAPTION, RESAMPLE, EXTRACT, REWRITE],
        "error_class": sorted(kind.__name__ for kind in RowError.__subclasses__()),
    }
    for name, value in (retry or {}).items():
        if value is not None and value not in known[name]:
            option = "--" + name.replace("_", "-")
            raise RecipeError(f"{option} {value!r}: expected one of {', '.join(known[name])}")


def run_build(
    root_url: str,
    recipe_name: str | None,
    overrides: list[str] | None,
    source: Source,
    settings_file: Path | None,
    if_busy: str,
) -> dict[str, Any]:
    """Runs the flow build-dataset in this process and prints its outcome."""
    root = Root(root_url)
    recipe = resolve_recipe(root, recipe_name, overrides)
    quiet_prefect()
    quiet_bars()
    from flows.build import build_dataset
    from flows.forms import Input

    return _run(
        root,
        build_dataset,
        if_busy,
        settings_file,
        recipe=recipe,
        source=None if source is None else Input(**source),
    )


def run_retry(
    root_url: str,
    stage: str | None,
    error_class: str | None,
    settings_file: Path | None,
    if_busy: str,
) -> dict[str, Any]:
    """Runs the flow retry-failed in this process and prints its outcome."""
    check_retry({"stage": stage, "error_class": error_class})
    root = Root(root_url)
    resolve_recipe(root, None, None)  # refuses a root that was never built
    quiet_prefect()
    quiet_bars()
    from flows.retry import retry_failed

    chosen = {"stage": stage or "any", "error_class": error_class or "any"}
    return _run(root, retry_failed, if_busy, settings_file, **chosen)


def _run(
    root: Root, flow: Any, if_busy: str, settings_file: Path | None, **parameters: Any
) -> dict[str, Any]:
    if if_busy not in ("wait", "refuse"):
        raise RecipeError(f"--if-busy {if_busy!r}: expected wait or refuse")
    from cli.progress import live
    from flows.building import SHOWN, TELL
    from stages.base import Progress

    progress = Progress()
    SHOWN.set(progress)
    TELL.set(lambda text: print(text, file=sys.stderr, flush=True))
    with live(progress):
        start_embedded_server()
        receipt: dict[str, Any] = asyncio.run(
            flow(
                root=root.url,
                settings_file=None if settings_file is None else str(settings_file),
                if_busy=if_busy,
                **parameters,
            )
        )
    print_outcome(root, progress, receipt)
    return receipt


def plan(
    root_url: str,
    recipe_name: str | None,
    overrides: list[str] | None,
    source: Source,
    settings_file: Path | None,
    retry: bool = False,
) -> Planned:
    from stages.plan import make_plan
    from stages.run import open_work
    from storage.responses import ResponseCache

    root = Root(root_url)
    settings = load_settings(settings_file)
    work = open_work(root, resolve_recipe(root, recipe_name, overrides), settings)
    cache = ResponseCache(settings.cache_dir)
    try:
        # A plan changes nothing: a root that was never built is not given an identity.
        dollars, tokens = cache.spent(root.id) if root.exists("root.json") else (0.0, 0)
    finally:
        cache.close()
    spec = None if source is None else InputSpec(**source)
    if spec is None and work.ingest is None:
        raise InputError(f"{root.url} has no rows yet: name an input with --input")
    return Planned(make_plan(work, spec, retry=retry), dollars, tokens, settings.budget)
