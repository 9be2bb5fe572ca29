"""Make a cron at a running server: `python schedule.py [SCHEDULE]`, by default each morning at seven in Berlin."""

import sys
from zoneinfo import ZoneInfo

from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

WEBHOOK = "http://127.0.0.1:8099/digest"
"""The address of receiver.py."""


def make_cron(client: SyncLangGraphClient, schedule: str, webhook: str = WEBHOOK) -> str:
    """Make the cron. The time of its first run."""
    topic, berlin = {"topic": "trains"}, ZoneInfo("Europe/Berlin")
    cron = client.crons.create("digest", schedule=schedule, timezone=berlin, input=topic, webhook=webhook)
    return cron["next_run_date"]


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "0 7 * * *"
    with get_sync_client(url="http://127.0.0.1:2024") as local:
        print("next digest:", make_cron(local, chosen))
