"""API keys out of Prefect Secret blocks, into memory only."""

from __future__ import annotations

from prefect.blocks.system import Secret
from pydantic import SecretStr

from config.errors import RecipeError
from config.settings import ROLES, Settings


async def with_keys(settings: Settings) -> Settings:
    """Settings whose endpoints have the keys of their `api_key_block`. Raises RecipeError."""
    changed = {}
    for role in ROLES:
        endpoint = settings.endpoint(role)
        if endpoint.api_key_block is None or endpoint.api_key is not None:
            continue
        try:
            block = await Secret.aload(endpoint.api_key_block)
        except ValueError as error:
            raise RecipeError(
                f"{role}: no Prefect Secret block {endpoint.api_key_block!r}; make one in the UI "
                f"under Blocks, or set VISPREF_{role.upper()}__API_KEY"
            ) from error
        changed[role] = endpoint.model_copy(update={"api_key": SecretStr(str(block.get()))})
    return settings.model_copy(update=changed)
