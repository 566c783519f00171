"""Where and how fast a run happens: endpoints, keys, folders, limits. Never part of a digest.

Read from the environment (prefix VISPREF_, nested with two underscores), for instance

    VISPREF_CAPTIONER__BASE_URL=http://127.0.0.1:8000/v1
    VISPREF_CLAIMS__API_KEY=...            # or __API_KEY_BLOCK=name of a Prefect Secret block
    VISPREF_BUDGET__DOLLARS=25

or from a YAML file of the same keys in lower case; the environment wins over the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.errors import RecipeError

ROLES = ("captioner", "reference", "claims")
Role = Literal["captioner", "reference", "claims"]


class Endpoint(BaseModel):
    """One OpenAI-compatible endpoint. Prices are dollars per million tokens."""

    model_config = ConfigDict(extra="forbid")

    base_url: str | None = None
    api_key: SecretStr | None = None
    api_key_block: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_tries: Annotated[int, Field(ge=1)] = 8
    busy_patience_s: Annotated[float, Field(gt=0)] = 900.0
    transport: Literal["aiohttp", "openai"] = "aiohttp"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    image_transport: Literal["data", "path", "url"] = "data"
    image_url_prefix: str | None = None
    image_tokens: Annotated[int, Field(ge=0)] = 1500
    price_in: Annotated[float, Field(ge=0)] = 0.0
    price_out: Annotated[float, Field(ge=0)] = 0.0


class Budget(BaseModel):
    """The hard limit on what one dataset root may spend, over all its runs. None: no limit."""

    model_config = ConfigDict(extra="forbid")

    dollars: Annotated[float, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None


class Embedding(BaseModel):
    """How the image encoders run."""

    model_config = ConfigDict(extra="forbid")

    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 64


class Inputs(BaseModel):
    """What input files may reach."""

    model_config = ConfigDict(extra="forbid")

    allowed_folders: list[Path] = []
    fetch_urls: bool = False
    allow_private_addresses: bool = False
    url_max_bytes: Annotated[int, Field(ge=1)] = 20_000_000
    url_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="VISPREF_", env_nested_delimiter="__", extra="forbid"
    )

    captioner: Endpoint = Endpoint()
    reference: Endpoint = Endpoint()
    claims: Endpoint = Endpoint()
    budget: Budget = Budget()
    embedding: Embedding = Embedding()
    inputs: Inputs = Inputs()
    cache_dir: Path = Path(os.path.expanduser("~")) / ".cache" / "vispref"
    scratch_dir: Path | None = None
    batch_rows: Annotated[int, Field(ge=1, le=4096)] = 256
    mine_block: Annotated[int, Field(ge=16)] = 4096
    duckdb_memory: str = "256MB"

    def endpoint(self, role: Role) -> Endpoint:
        found: Endpoint = getattr(self, role)
        return found


def load_settings(path: Path | None = None) -> Settings:
    """Settings from the environment over an optional YAML file. Raises RecipeError."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RecipeError(f"settings file {path} cannot be read: {error}") from error
    try:
        from_environment = Settings().model_dump(exclude_unset=True)
        return Settings.model_validate(_merge(data, from_environment))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
        raise RecipeError("settings:\n  " + "\n  ".join(lines)) from error


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged
