"""How the stand-in server refuses a request."""

from __future__ import annotations

import orjson


class ProtocolError(Exception):
    """The request is answered with an error. `body` is its JSON in OpenAI's form."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = orjson.dumps(
            {
                "error": {
                    "message": message,
                    "type": "invalid_request_error" if status < 500 else "server_error",
                    "param": None,
                    "code": code,
                }
            }
        )
