"""What `vispref doctor` asks the endpoints: reachable, with this key, serving the recipe's model?"""

from __future__ import annotations

from collections.abc import Iterator

from config.errors import RecipeError
from config.recipe import Recipe
from config.settings import ROLES, Endpoint, Role, Settings
from operate.findings import Finding, fail, ok, warn
from operate.probes import HttpRefused, served_models
from operate.supervisor import Unhealthy
from tasks.keys import with_keys

SHOWN = 5


def wanted_models(recipe: Recipe | None) -> dict[Role, list[str]]:
    """The models the recipe asks of each role."""
    if recipe is None:
        return {}
    claims = sorted({recipe.extract.model, recipe.rewrite.model})
    return {
        "captioner": [recipe.caption.model],
        "reference": [recipe.resample.model],
        "claims": claims,
    }


async def check_endpoints(settings: Settings, recipe: Recipe | None) -> list[Finding]:
    found: list[Finding] = []
    wanted = wanted_models(recipe)
    for role in ROLES:
        endpoint = settings.endpoint(role)
        if endpoint.api_key_block is not None and endpoint.api_key is None:
            finding, endpoint = await _with_block(settings, role)
            found.append(finding)
        found += list(check_endpoint(role, endpoint, wanted.get(role, [])))
    return found


async def _with_block(settings: Settings, role: Role) -> tuple[Finding, Endpoint]:
    endpoint = settings.endpoint(role)
    alone = Settings.model_construct(**{
        **{name: Endpoint() for name in ROLES}, role: endpoint,
    })  # fmt: skip
    block = endpoint.api_key_block
    try:
        loaded = await with_keys(alone)
    except RecipeError as error:
        return fail(role, str(error), "make the block under Blocks in Prefect's UI"), endpoint
    except Exception as error:  # noqa: BLE001 - Prefect's client raises many kinds
        return fail(
            role,
            f"Secret block {block!r} cannot be read: {type(error).__name__}",
            "see what is said of the Prefect server below",
        ), endpoint
    return ok(role, f"Secret block {block!r} is there"), loaded.endpoint(role)


def check_endpoint(role: Role, endpoint: Endpoint, wanted: list[str]) -> Iterator[Finding]:
    """One role's endpoint. The key is sent, and never said."""
    variable = f"VISPREF_{role.upper()}"
    if endpoint.base_url is None:
        yield warn(
            role, "no endpoint is set", f"set {variable}__BASE_URL before a run has calls for it"
        )
        return
    key = None if endpoint.api_key is None else endpoint.api_key.get_secret_value()
    try:
        served = served_models(endpoint.base_url, key, endpoint.connect_timeout_s)
    except HttpRefused as error:
        yield _refused(role, error, has_key=bool(key))
        return
    except Unhealthy as error:
        yield fail(role, str(error), f"start the server, or correct {variable}__BASE_URL")
        return
    missing = [model for model in wanted if model not in served]
    listed = ", ".join(served[:SHOWN]) + (" and more" if len(served) > SHOWN else "")
    if missing:
        yield fail(
            role,
            f"{endpoint.base_url} serves {listed or 'nothing'}, not {', '.join(missing)}",
            "serve the recipe's model under that name (vLLM: --served-model-name), or name the "
            "served one in the recipe",
        )
    else:
        yield ok(role, f"{endpoint.base_url} serves {', '.join(wanted) or listed}")


def _refused(role: Role, error: HttpRefused, *, has_key: bool) -> Finding:
    variable = f"VISPREF_{role.upper()}"
    if error.status in (401, 403) and not has_key:
        return fail(
            role, f"{error}, and no key is set", f"set {variable}__API_KEY or __API_KEY_BLOCK"
        )
    if error.status in (401, 403):
        return fail(role, f"{error}: the key is refused", f"correct {variable}__API_KEY")
    return warn(
        role,
        f"{error}: it does not list its models",
        f"check that {variable}__BASE_URL ends in /v1",
    )
