"""Problems: every error that a client may see is a type with a status and a `code`.

Any module raises them. `api/errors.py` renders them as `{"detail", "code"}` and the problem's own fields.
"""

from typing import ClassVar


class Problem(Exception):
    """An error with an HTTP status. `detail` is for the client and never contains `str()` of another exception."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"

    def __init__(self, detail: str, /, *, headers: dict[str, str] | None = None, **fields: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.fields = fields


class InvalidRequest(Problem):
    """The request is well-formed, but cannot be executed."""

    status, code = 400, "invalid-request"


class Unauthenticated(Problem):
    """The request has no valid credentials. `WWW-Authenticate` tells how to send them."""

    status, code = 401, "unauthenticated"

    def __init__(self, detail: str, /, *, challenge: str = "Bearer", headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, headers={"www-authenticate": challenge, **(headers or {})})


class Forbidden(Problem):
    """You are authenticated, but not allowed to do this."""

    status, code = 403, "forbidden"


class NotFound(Problem):
    """The resource does not exist, or you may not see it."""

    status, code = 404, "not-found"


class Conflict(Problem):
    """The request conflicts with existing data."""

    status, code = 409, "conflict"


class ThreadBusy(Conflict):
    """The thread has an active run and `multitask_strategy` is `reject`, or the state cannot be changed during the run."""

    code = "thread-busy"


class ThreadExists(Conflict):
    """The run was to be the first one of a new thread, but the thread exists."""

    code = "thread-exists"


class TransactionConflict(Conflict):
    """Other requests repeatedly changed the same rows. Nothing was changed. Send the request again."""

    code = "transaction-conflict"

    def __init__(
        self, detail: str = "other requests changed the same rows: send the request again", /, *, retry_after_s: int = 1
    ) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class BodyTimeout(Problem):
    """The request body did not arrive in time."""

    status, code = 408, "body-timeout"


class IdempotencyKeyInUse(Conflict):
    """The first request with this Idempotency-Key is still being processed."""

    code = "key-in-use"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key was used for a different request."""

    status, code = 422, "key-reused"


class CheckpointUnreadable(Conflict):
    """The thread's stored state cannot be read. It was changed, has a type that is not allowed, or needs another key."""

    code = "checkpoint-unreadable"


class StateInvalid(Conflict):
    """The thread's stored state does not match the schema of its graph. `detail` has the reason."""

    code = "state-invalid"


class ContentTooLarge(Problem):
    """The body is too large, or an object in it that has its own limit."""

    status, code = 413, "too-large"


class AnswerTooLarge(Problem):
    """The response would have more than `THREADKEEP_ANSWER_BYTES` bytes. Request less (`select`, `extract`)."""

    status, code = 422, "answer-too-large"


class UnsupportedMediaType(Problem):
    """The body of a write must be JSON and must not be compressed."""

    status, code = 415, "unsupported-media"


class MisdirectedRequest(Problem):
    """The `Host` header is not a name of this server. Without authentication the server accepts only its own names."""

    status, code = 421, "misdirected-request"


class ValidationFailed(Problem):
    """The body, a query parameter or an id is not valid. `errors` lists each place."""

    status, code = 422, "invalid"


class UnsupportedField(Problem):
    """A documented field that this server does not support. `field` is its name."""

    status, code = 422, "unsupported"


class TooManyRequests(Problem):
    """You have reached a limit for one principal."""

    status, code = 429, "too-many-requests"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1, **fields: object) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)}, **fields)


class QueueFull(Problem):
    """All slots are taken and the queue is full, or the wait was too long."""

    status, code = 503, "overloaded"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1, **fields: object) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)}, **fields)


class ServiceUnavailable(Problem):
    """Postgres does not answer."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str = "the database is not available", /, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class QueryTimeout(Problem):
    """`/query` exceeded its time limit. Its run was stopped."""

    status, code = 504, "timeout"


class SearchTimeout(Problem):
    """The search exceeded its time limit and was stopped."""

    status, code = 503, "search-timeout"


class StartupError(Exception):
    """Something cannot be loaded, and the server does not start without it. The text is for the operator."""
