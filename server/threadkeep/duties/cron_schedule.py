"""Ticks: when a cron is due.

Five fields, as crontab has them; a sixth, at the end, is seconds, as on the reference. In a zone with summer time a
cron of a fixed hour runs once on the day of the change, too: after the gap where its hour is left out, and at the
first of the two where it comes twice.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

import anyio.to_thread
from cronsim import CronSim, CronSimError

from threadkeep.base.problems import ValidationFailed

MAX_SCHEDULE_LENGTH = 200
"""Characters of a schedule."""


async def load_timezone(name: str | None) -> tzinfo:
    """The time zone of an IANA name; None is UTC. Invalid where there is no such zone."""
    if name is None:
        return UTC
    try:
        return await anyio.to_thread.run_sync(ZoneInfo, name)
    except (KeyError, ValueError, OSError):  # unknown; no plain name; a folder of zones
        raise ValidationFailed(
            f"Invalid timezone: {name!r}. Use IANA timezone format (e.g. 'America/New_York')."
        ) from None


ALIASES: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Names of schedules, as crontab(5) has them."""


def next_fire_time(schedule: str, zone: tzinfo, after: datetime) -> datetime:
    """The first tick behind `after`, in UTC; Invalid where the schedule is none or never comes due."""
    fields = ALIASES.get(schedule.strip().lower(), schedule).split()
    if len(fields) == 6:
        fields = [fields[5], *fields[:5]]
    try:
        for tick in CronSim(" ".join(fields), after.astimezone(zone)):
            if tick > after:
                return tick.astimezone(UTC)
    except CronSimError as error:
        reason = str(error)
    else:
        reason = "it never comes due"
    raise ValidationFailed(
        f"Invalid cron schedule: {schedule!r}. Reason: {reason}. Ensure the schedule uses the standard cron format "
        "(minute hour day_of_month month day_of_week). Example: '*/5 * * * *' for every 5 minutes."
    )


def next_run_date(schedule: str, zone: tzinfo, after: datetime, end: datetime | None) -> datetime | None:
    """The first tick behind `after`, or None where `end` comes before it. Invalid as above."""
    tick = next_fire_time(schedule, zone, after)
    return None if end is not None and tick > end else tick
