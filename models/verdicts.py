"""What a reply that is no answer means: wait, try again, give the row up, or stop. Pure."""

from __future__ import annotations

import orjson

from config.errors import EndpointDown, KeyRejected, RequestRejected, RowError, StageStopped
from models.replies import retry_after
from models.transport import Reply

RETRIED = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524})
BUSY = frozenset({429, 529})
# A reply of HTTP 429 that waiting does not change (codes of OpenAI's and Azure's endpoints).
SPENT = (b"insufficient_quota", b"billing_hard_limit_reached", b"billing_not_active")
WEAKER = {"json_schema": "json_object", "json_object": "none"}
FORMAT_WORDS = (b"response_format", b"json_schema", b"json_object")
# A request passed over this often, while others were answered, for each call in flight, is not
# unlucky: with eight rows under way for each, chance does that to one in a hundred million.
PASSED_OVER = 160


def is_busy(reply: Reply) -> bool:
    """The server asks for patience and says nothing against the request: no try is used up."""
    return reply.status in BUSY or (reply.status == 503 and retry_after(reply) is not None)


def is_spent(reply: Reply) -> bool:
    """The account behind the key is out of money: no waiting helps."""
    return reply.status == 402 or (
        reply.status in BUSY and any(code in reply.body for code in SPENT)
    )


def format_unknown(reply: Reply) -> bool:
    """The server does not know the answer format that was asked for."""
    said = reply.body.lower()
    return reply.status in (400, 422) and any(word in said for word in FORMAT_WORDS)


def final_error(
    reply: Reply, where: str, role: str, *, others_succeed: bool
) -> StageStopped | RowError | None:
    """The error for a reply that no retry will change; None where one may.

    `where` says who answered what. A status that concerns every request stops the stage; one that
    concerns this request fails its row.
    """
    variable = f"VISPREF_{role.upper()}"
    if is_spent(reply):
        return EndpointDown(f"{where}\nThe account has no money left: add some, run again")
    if is_busy(reply) or reply.status in RETRIED or reply.status >= 500:
        return None
    if reply.status < 400:
        return EndpointDown(
            f"{where}\nA redirect or another status is no answer: set {variable}__BASE_URL to "
            "the endpoint itself"
        )
    if reply.status == 401 or (reply.status == 403 and not others_succeed):
        return KeyRejected(f"{where}\nThe key is refused: set {variable}__API_KEY")
    if reply.status in (404, 405):
        return EndpointDown(where)
    return RequestRejected(where)


def listed(reply: Reply) -> list[str] | None:
    """The models that a server lists; None where its reply lists none, and so says nothing."""
    if reply.status != 200:
        return None
    try:
        names = [model["id"] for model in orjson.loads(reply.body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None
    return [name for name in names if isinstance(name, str)] or None


def is_listed(model: str, names: list[str]) -> bool:
    """Servers list a model under a longer name than they take: `models/x` is x, `x:latest` too.

    And gateways take a variant behind the name that they list, as in `x:free`.
    """
    asked = {model, model.rpartition(":")[0]} - {""}
    return any(
        not asked.isdisjoint({name, name.removeprefix("models/"), name.removesuffix(":latest")})
        for name in names
    )


QUEUE = b"vllm:num_requests_waiting"


def queue_length(body: bytes) -> float | None:
    """Requests that wait in a vLLM server, of all its engines; None where it is not such a one."""
    found = None
    for line in body.splitlines():
        name, _, value = line.rpartition(b" ")
        if name.partition(b"{")[0] == QUEUE:
            try:
                found = (found or 0.0) + float(value)
            except ValueError:
                return None
    return found
