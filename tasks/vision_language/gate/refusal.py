"""What a request is answered with that cannot be served: a status and one sentence."""

from typing import Any

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request cannot be served.

    Args:
        status: of HTTP.
        message: what was found, and what is needed.
        code: a word for programs.
        retry_after_s: when to come again; None: never with the same request.
    """

    def __init__(self, status: int, message: str, code: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after_s = status, message, code, retry_after_s

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's form of an error."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers beside it."""
        found = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def bad(message: str, code: str = "invalid_request") -> Refusal:
    """Return the refusal of a request that makes no sense."""
    return Refusal(400, message, code)
