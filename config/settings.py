"""Where and how fast a run happens: endpoints, keys, folders, limits. Never part of a digest.

Read from the environment (prefix VISPREF_, nested with two underscores), for instance

    VISPREF_CAPTIONER__BASE_URL=http://127.0.0.1:8000/v1
    VISPREF_CLAIMS__API_KEY=...            # or __API_KEY_BLOCK=name of a Prefect Secret block
    VISPREF_BUDGET__DOLLARS=25

or from a YAML file of the same keys in lower case; the environment wins over the file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from config.errors import RecipeError

Role = Literal["captioner", "reference", "claims"]
ROLES: tuple[Role, ...] = ("captioner", "reference", "claims")


class Endpoint(BaseModel):
    """One OpenAI-compatible endpoint. Prices are dollars per million tokens."""

    # What was given stands in no error: it may hold a key.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    base_url: str | None = None
    # `vispref up` starts it and keeps it running. It may hold a key.
    serve_command: SecretStr | None = None
    api_key: SecretStr | None = None
    api_key_block: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 64
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_tries: Annotated[int, Field(ge=1)] = 8
    busy_patience_s: Annotated[float, Field(gt=0)] = 900.0
    # A server that is started again loads its weights first: some minutes for 32B parameters.
    down_patience_s: Annotated[float, Field(gt=0)] = 600.0
    # Requests that wait in a vLLM server: enough to fill its batch again at once, and few enough
    # that none waits for long.
    queue_limit: Annotated[int, Field(ge=0)] = 16
    check_model: bool = True
    transport: Literal["aiohttp", "openai"] = "aiohttp"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    image_transport: Literal["data", "path", "url"] = "data"
    image_url_prefix: str | None = None
    image_tokens: Annotated[int, Field(ge=0)] = 1500
    price_in: Annotated[float, Field(ge=0)] = 0.0
    price_out: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("base_url", "image_url_prefix")
    @classmethod
    def _without_secrets(cls, url: str | None) -> str | None:
        """These are recorded and shown, so they hold no key."""
        if url is None:
            return url
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("not a URL; expected http://host/v1 or the like") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL that starts with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "expected a URL without user, password and query, because it is recorded; "
                "give the key as api_key"
            )
        return url

    @property
    def free(self) -> bool:
        return self.price_in == 0 and self.price_out == 0


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
        env_prefix="VISPREF_",
        env_nested_delimiter="__",
        extra="forbid",
        hide_input_in_errors=True,
    )

    captioner: Endpoint = Endpoint()
    reference: Endpoint = Endpoint()
    claims: Endpoint = Endpoint()
    budget: Budget = Budget()
    embedding: Embedding = Embedding()
    inputs: Inputs = Inputs()
    cache_dir: Path = Path(os.path.expanduser("~")) / ".cache" / "vispref"
    limits_dir: str | None = None
    scratch_dir: Path | None = None
    runs_dir: Path = Path(os.path.expanduser("~")) / "vispref-runs"
    batch_rows: Annotated[int, Field(ge=1, le=4096)] = 256
    shard_rows: Annotated[int, Field(ge=1)] = 1_000_000
    mine_block: Annotated[int, Field(ge=16)] = 4096
    duckdb_memory: Annotated[ByteSize, Field(ge=32_000_000)] = ByteSize(256_000_000)

    def endpoint(self, role: Role) -> Endpoint:
        found: Endpoint = getattr(self, role)
        return found

    @property
    def limits_folder(self) -> str:
        """A folder or an fsspec URL: where processes divide endpoints' limits among them."""
        return self.limits_dir or str(self.cache_dir / "limits")


def load_settings(path: Path | None = None) -> Settings:
    """Settings from the environment over an optional YAML file. Raises RecipeError.

    No error shows a value, nor has one behind it that does: any of them may be a key.
    """
    data: Any = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"settings file {path} cannot be read: {_where(error)}") from None
        if not isinstance(data, dict):
            raise RecipeError(f"settings file {path}: expected keys and values, as in the README")
    _check_names(os.environ)
    try:
        from_environment = Settings().model_dump(exclude_unset=True)
        return Settings.model_validate(_merge(data, from_environment))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
        raise RecipeError("settings:\n  " + "\n  ".join(lines)) from None
    except SettingsError as error:
        raise RecipeError(f"settings: {error}; expected JSON there") from None


def check_prices(settings: Settings) -> list[Role]:
    """The roles whose calls a budget in dollars does not see, because they have no price.

    Raises RecipeError where that is all of them: such a budget would never stop anything.
    """
    if settings.budget.dollars is None:
        return []
    free = [role for role in ROLES if settings.endpoint(role).free]
    if len(free) == len(ROLES):
        raise RecipeError(
            f"a budget of ${settings.budget.dollars:g} is set, but no endpoint has a price, so "
            "nothing would ever count against it: set VISPREF_ROLE__PRICE_IN and __PRICE_OUT, or "
            "VISPREF_BUDGET__TOKENS instead"
        )
    return free


def _where(error: Exception) -> str:
    """What is wrong with a file, and in which line, without the line itself."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"it is no YAML from line {error.problem_mark.line + 1} on"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"it is no YAML in UTF-8 ({type(error).__name__})"


def _check_names(environment: Mapping[str, str]) -> None:
    """A misspelt variable would be ignored in silence, a budget for instance. Raises RecipeError."""
    for name in environment:
        if not name.upper().startswith("VISPREF_"):
            continue
        first = name[len("VISPREF_") :].split("__")[0].lower()
        if first not in Settings.model_fields:
            near = difflib.get_close_matches(first, Settings.model_fields, n=1)
            hint = f" (did you mean VISPREF_{near[0].upper()}?)" if near else ""
            raise RecipeError(f"settings: the variable {name} is not known{hint}; unset it")


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged
