"""Cron aliases: names of schedules, as crontab(5) has them."""

from datetime import UTC, datetime

import pytest

from threadkeep.base.problems import ValidationFailed
from threadkeep.duties.cron_schedule import next_fire_time

AFTER = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("alias", "tick"),
    [
        ("@hourly", datetime(2026, 3, 4, 6, tzinfo=UTC)),
        ("@daily", datetime(2026, 3, 5, tzinfo=UTC)),
        ("@midnight", datetime(2026, 3, 5, tzinfo=UTC)),
        ("@weekly", datetime(2026, 3, 8, tzinfo=UTC)),
        ("@monthly", datetime(2026, 4, 1, tzinfo=UTC)),
        ("@yearly", datetime(2027, 1, 1, tzinfo=UTC)),
        ("@annually", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_alias_stands_for_its_schedule(alias: str, tick: datetime) -> None:
    assert next_fire_time(alias, UTC, AFTER) == tick


def test_alias_that_is_not_a_schedule_is_refused() -> None:
    with pytest.raises(ValidationFailed):
        next_fire_time("@reboot", UTC, AFTER)
