"""Cron schedule: computes the fire times of crons.

A schedule has five fields as in crontab. An optional sixth field at the end is seconds, as on the reference server. In a
zone with summer time, a cron with a fixed hour also runs once on the day of the change. It runs after the gap if its
hour is skipped, and at the first of two if its hour is repeated.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

import anyio.to_thread
from cronsim import CronSim, CronSimError

from threadkeep.base.problems import ValidationFailed

MAX_SCHEDULE_LENGTH = 200
"""The most characters in a schedule."""


async def load_timezone(name: str | None) -> tzinfo:
    """The time zone with an IANA name. None is UTC. ValidationFailed if there is no such zone."""
    if name is None:
        return UTC
    try:
        # It reads a file.
        return await anyio.to_thread.run_sync(ZoneInfo, name)
    except (KeyError, ValueError, OSError):  # an unknown name, an invalid name, a folder of zones
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
"""Named schedules of crontab(5)."""


def next_fire_time(schedule: str, zone: tzinfo, start: datetime) -> datetime:
    """The first fire time after `start`, in UTC. ValidationFailed if the schedule is invalid or has no fire time."""
    fields = ALIASES.get(schedule.strip().lower(), schedule).split()
    if len(fields) == 6:
        # CronSim expects the seconds first.
        fields = [fields[5], *fields[:5]]
    try:
        for fire_time in CronSim(" ".join(fields), start.astimezone(zone)):
            if fire_time > start:
                return fire_time.astimezone(UTC)
    except CronSimError as error:
        reason = str(error)
    else:
        reason = "it never comes due"
    raise ValidationFailed(
        f"Invalid cron schedule: {schedule!r}. Reason: {reason}. Ensure the schedule uses the standard cron format "
        "(minute hour day_of_month month day_of_week). Example: '*/5 * * * *' for every 5 minutes."
    )


def next_run_date(schedule: str, zone: tzinfo, start: datetime, end: datetime | None) -> datetime | None:
    """The first fire time after `start`, or None if it is after `end`. ValidationFailed as in `next_fire_time`."""
    fire_time = next_fire_time(schedule, zone, start)
    return None if end is not None and fire_time > end else fire_time
