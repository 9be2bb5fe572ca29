"""Push sender: makes the body and headers of a push notification about a task."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from threadkeep.api.a2a import legacy
from threadkeep.api.a2a.messages import Part
from threadkeep.api.a2a.tasks import TaskView, answers_with_messages, spoken_parts, task_fields
from threadkeep.base import json
from threadkeep.base.json import RawJson
from threadkeep.duties.webhooks import Notification
from threadkeep.persistence.encryption import open_text
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.tables import run_chains, task_pushes
from threadkeep.tables.run_chains import ChainRun
from threadkeep.tables.task_pushes import TaskPush
from threadkeep.tables.webhook_deliveries import Delivery

TOKEN_HEADER = "X-A2A-Notification-Token"  # noqa: S105 - the name of the header


async def render_task(pool: Pool, keys: tuple[bytes, ...], delivery: Delivery) -> Notification | None:
    """The notification of a task in the state that the delivery was made for. None if the config or the task was deleted.

    `keys` decrypt the secrets of the config. DecryptionFailed without the right one.
    """
    state: dict[str, Any] = delivery.body.load()
    chain_id = UUID(state["chain_id"])
    async with pool.connection() as conn:
        # The delivery has no secrets. They are read now, so a deleted config sends nothing.
        push = await task_pushes.read(conn, chain_id, delivery.config_id)
        runs = await run_chains.runs_of(conn, UNRESTRICTED, [chain_id])
    chain = _until(runs, delivery.run_id)
    if push is None or not chain:
        return None
    # The task may have gone on since. The notification shows the state of its time.
    chain[-1] = replace(
        chain[-1],
        state=state["state"],
        interrupts=RawJson(json.dumps(state["interrupts"])),
        updated_at=datetime.fromisoformat(state["updated_at"]),
    )
    task = task_fields(chain, await _parts(pool, chain, state), TaskView())
    secrets = {"token": open_text(keys, push.token), "credentials": open_text(keys, push.credentials)}
    return _notification(replace(push, **secrets), task)


def _until(runs: list[ChainRun], run_id: UUID) -> list[ChainRun]:
    """The task's runs up to the run of the notification. Empty if that run was deleted."""
    places = [index for index, run in enumerate(runs) if run.run_id == run_id]
    return runs[: places[0] + 1] if places else []


async def _parts(pool: Pool, chain: list[ChainRun], state: dict[str, Any]) -> list[Part]:
    """The parts of the artifact, as the task has them."""
    if not answers_with_messages(chain[-1]):
        return [{"data": state["values"]}] if state["state"] == "completed" else []
    for run in reversed(chain):
        parts, _ = await spoken_parts(pool, UNRESTRICTED, run)
        if parts:
            return parts
    return []


def _notification(push: TaskPush, task: dict[str, Any]) -> Notification:
    """A StreamResponse of 1.0, or a task of 0.3."""
    is_legacy = push.protocol == "0.3"
    headers = {"content-type": "application/json" if is_legacy else "application/a2a+json"}
    if push.token:
        headers[TOKEN_HEADER] = push.token
    if push.scheme:
        headers["authorization"] = f"{push.scheme} {push.credentials or ''}".strip()
    body = legacy.task_out(task) if is_legacy else {"task": task}
    return Notification(content=json.dumps(body), headers=headers)
