"""Schedules: takes over crons, switched off. Otherwise this server and the source would both start their runs.

`--enable-crons` switches them on, also those of an earlier call, if nobody has changed them since.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from pydantic import ValidationError

from threadkeep.auth.ownership import OWNER
from threadkeep.auth.principal import principal
from threadkeep.commands.adopt.ids import thread_id_of
from threadkeep.commands.adopt.target import LEFT_OUT, LeftOut, Target, lost, words
from threadkeep.duties import cron_schedule
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.request import GraphRunOptions
from threadkeep.tables import assistants, crons
from threadkeep.tables.adopted_threads import SOURCE_KEY
from threadkeep.tables.crons import Cron, CronDefinition, NewCron

SOURCE_FIELDS: Final = frozenset({"user_id", "cron_id", "next_run_date", "created_at", "updated_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCron:
    """A cron at the source."""

    original_id: str
    source: str
    assistant_id: str
    """The id of an assistant, or the name of a graph."""
    thread_id: str | None
    schedule: str
    timezone: str | None
    payload: Mapping[str, Any]
    """The body of its runs."""
    metadata: Mapping[str, Any]
    on_run_completed: str | None
    end_time: datetime | None
    enabled: bool
    owner: str | None = None


async def adopt_cron(target: Target, cron: SourceCron) -> None:
    """Take over a cron, and report the result."""
    report = target.report
    try:
        is_new = await _adopt(target, cron)
    except ValidationError:
        report.skip("crons", cron.original_id, "this server does not accept the body of its runs")
    except LEFT_OUT as reason:
        if lost(reason):
            raise
        report.skip("crons", cron.original_id, words(reason))
    else:
        (report.taken if is_new else report.here)["crons"] += 1


async def _adopt(target: Target, cron: SourceCron) -> bool:
    """Whether the cron was new here, or was switched on."""
    if target.is_empty:
        return True
    cron_id = thread_id_of(cron.original_id)
    async with target.pool.connection() as conn, conn.transaction():
        here = await crons.lock(conn, UNRESTRICTED, cron_id)
        if here is not None and here.metadata.load().get(SOURCE_KEY) != cron.source:
            raise LeftOut("a cron with this id exists here, and does not come from this source")
        if here is not None and not _is_to_enable(target, cron, here):
            return False
        new = await _new_cron(target, conn, cron)
        if target.options.dry_run:
            return True
        if here is not None:
            definition = replace(new.definition, metadata=here.metadata.load())
            await crons.update(conn, UNRESTRICTED, cron_id, definition, runs=new.runs)
        elif await crons.create(conn, cron_id, new) is None:
            raise LeftOut("its thread is not here")
    return True


def _is_to_enable(target: Target, cron: SourceCron, here: Cron) -> bool:
    # A change by a client sets `updated_at`, and its decision stays.
    untouched = here.created_at == here.updated_at
    return target.options.enable_crons and cron.enabled and not here.enabled and untouched


async def _new_cron(target: Target, conn: Conn, cron: SourceCron) -> NewCron:
    owner = target.owner_of(cron.owner)
    if owner is None and target.auth_type != "none":
        raise LeftOut("its runs need a user: name its owner with --owner")
    assistant_id = await _assistant_id(target, conn, cron)
    filters = UNRESTRICTED if owner is None or target.auth_type == "none" else Filters({OWNER: owner})
    return NewCron(
        assistant_id=assistant_id,
        thread_id=None if cron.thread_id is None else thread_id_of(cron.thread_id),
        definition=await _definition(target, conn, cron, assistant_id),
        filters=filters,
        runs=filters,
    )


async def _assistant_id(target: Target, conn: Conn, cron: SourceCron) -> UUID:
    """The id of its assistant here. LeftOut if it is not here, and will not be after a dry run."""
    if cron.assistant_id in target.graphs:
        return assistants.system_id(cron.assistant_id)
    assistant_id = thread_id_of(cron.assistant_id)
    is_system = any(assistant_id == assistants.system_id(name) for name in target.graphs)
    if is_system or target.options.dry_run or await assistants.get(conn, UNRESTRICTED, assistant_id) is not None:
        return assistant_id
    raise LeftOut("its assistant is not here")


async def _definition(target: Target, conn: Conn, cron: SourceCron, assistant_id: UUID) -> CronDefinition:
    owner = target.owner_of(cron.owner)
    zone, now = await cron_schedule.load_timezone(cron.timezone), await crons.database_time(conn)
    policy: Any = None if cron.thread_id is not None else cron.on_run_completed or "delete"
    enabled = cron.enabled and target.options.enable_crons
    run = {key: value for key, value in cron.payload.items() if key not in SOURCE_FIELDS}
    schedule: dict[str, Any] = {"schedule": cron.schedule, "timezone": cron.timezone, "enabled": enabled}
    payload = {**run, **schedule, "assistant_id": str(assistant_id)}
    # Only to refuse a body that runs of this server would not accept.
    GraphRunOptions.model_validate(payload)
    return CronDefinition(
        schedule=cron.schedule,
        timezone=cron.timezone,
        end_time=cron.end_time,
        enabled=enabled,
        on_run_completed=policy,
        payload=payload,
        metadata={**cron.metadata, SOURCE_KEY: cron.source},
        next_run_date=cron_schedule.next_run_date(cron.schedule, zone, now, cron.end_time),
        principal=None if owner is None or target.auth_type == "none" else cast("Any", principal(owner).user),
    )
