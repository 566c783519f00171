"""Whether a server answers. Each probe raises Unhealthy with what it found instead."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from operate.supervisor import Unhealthy

TIMEOUT_S = 10.0
LIMIT = 1_000_000  # bytes of an answer that are read


def get_json(url: str, headers: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON at a URL of http or https. Raises Unhealthy."""
    if not url.startswith(("http://", "https://")):
        raise Unhealthy(f"{url} is no URL of http or https")
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return json.loads(answer.read(LIMIT))
    except urllib.error.HTTPError as error:
        error.close()
        raise HttpRefused(url, error.code) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unhealthy(f"{url}: {reason}") from None


class HttpRefused(Unhealthy):
    """The server answered, with an error status."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url}: HTTP {status}")
        self.status = status


def served_models(base_url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> list[str]:
    """The names under which an OpenAI-compatible server serves. Raises Unhealthy."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{base_url.rstrip('/')}/models"
    found = get_json(url, headers, timeout_s)
    try:
        return [str(model["id"]) for model in found["data"]]
    except (TypeError, KeyError):
        raise Unhealthy(f"{url}: no list of models in the answer") from None
