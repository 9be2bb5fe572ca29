"""Problems: every error a client may see is a type that knows its status and its `code`.

Raised anywhere, rendered in one place (`api/errors.py`) as `{"detail", "code"}` plus the problem's own fields.
"""

from typing import ClassVar


class Problem(Exception):
    """An error with an HTTP status. `detail` is written for the client; it never holds `str()` of another exception."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"

    def __init__(self, detail: str, /, *, headers: dict[str, str] | None = None, **fields: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.fields = fields


class InvalidRequest(Problem):
    """The request was understood and can't be carried out as it stands."""

    status, code = 400, "invalid-request"


class Unauthenticated(Problem):
    """Who calls is not known. `WWW-Authenticate` says how to tell."""

    status, code = 401, "unauthenticated"

    def __init__(self, detail: str, /, *, challenge: str = "Bearer", headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, headers={"www-authenticate": challenge, **(headers or {})})


class Forbidden(Problem):
    """Known, and not allowed."""

    status, code = 403, "forbidden"


class NotFound(Problem):
    """There is no such thing, or none of the caller's."""

    status, code = 404, "not-found"


class Conflict(Problem):
    """What is there already stands against the request."""

    status, code = 409, "conflict"


class ThreadBusy(Conflict):
    """A run is going on and `multitask_strategy` is `reject`, or the state was to be changed under it."""

    code = "thread-busy"


class TransactionConflict(Conflict):
    """Other requests changed the same rows again and again. Nothing was changed: send it again."""

    code = "transaction-conflict"

    def __init__(
        self, detail: str = "other requests changed the same at once: send it again", /, *, retry_after_s: int = 1
    ) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class BodyTimeout(Problem):
    """The body did not come in time."""

    status, code = 408, "body-timeout"


class IdempotencyKeyInUse(Conflict):
    """The first request with this Idempotency-Key is still being let in."""

    code = "key-in-use"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key stands for another request."""

    status, code = 422, "key-reused"


class CheckpointUnreadable(Conflict):
    """What is kept of the thread's state can't be read: changed, of a type that is not allowed, or of another key."""

    code = "checkpoint-unreadable"


class StateInvalid(Conflict):
    """What is kept of the thread's state does not fit the schema of its graph, which refuses to read it. `detail` says why."""

    code = "state-invalid"


class ContentTooLarge(Problem):
    """The body is above the limit, or an object in it that has a limit of its own."""

    status, code = 413, "too-large"


class AnswerTooLarge(Problem):
    """The answer would hold more bytes than `THREADKEEP_ANSWER_BYTES`. Ask for less of it (`select`, `extract`)."""

    status, code = 422, "answer-too-large"


class UnsupportedMediaType(Problem):
    """A write has to be JSON, and not compressed."""

    status, code = 415, "unsupported-media"


class MisdirectedRequest(Problem):
    """Without authentication the server answers only for its own names: the `Host` header has another one."""

    status, code = 421, "misdirected-request"


class ValidationFailed(Problem):
    """The body, a query parameter or an id has the wrong form. `errors` names each place."""

    status, code = 422, "invalid"


class UnsupportedField(Problem):
    """A documented field that this server does not offer. `field` names it."""

    status, code = 422, "unsupported"


class TooManyRequests(Problem):
    """The principal has had its share."""

    status, code = 429, "too-many-requests"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1, **fields: object) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)}, **fields)


class QueueFull(Problem):
    """Every slot is taken and the line is full, or the wait was too long."""

    status, code = 503, "overloaded"

    def __init__(self, detail: str, /, *, retry_after_s: int = 1, **fields: object) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)}, **fields)


class ServiceUnavailable(Problem):
    """Postgres does not answer."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str = "the database is not available", /, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"retry-after": str(retry_after_s)})


class QueryTimeout(Problem):
    """`/query` ran over its time limit; its run was stopped."""

    status, code = 504, "timeout"


class SearchTimeout(Problem):
    """A search over its time limit; it was stopped."""

    status, code = 503, "search-timeout"


class StartupError(Exception):
    """Something can't be loaded, and the server does not start without it. The text is for the operator."""
