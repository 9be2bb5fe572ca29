"""Local model: serves examples/local-model, asks two questions on a thread, and prints the tokens as they come (`make model`)."""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from langgraph_sdk import get_client

import dist

CONFIG = dist.ROOT / "examples" / "local-model" / "langgraph.json"
QUESTIONS = ("What is the capital of France?", "Tell me a short story about it.")
FEWEST_TOKENS = 5


async def ask(client: Any, thread_id: str, question: str) -> None:
    """Print the answer token by token, then how many there were and how fast they came. Exit if they are too few."""
    sys.stdout.write(f"\n> {question}\n")
    came: list[float] = []
    messages = {"messages": [{"role": "user", "content": question}]}
    async for part in client.runs.stream(thread_id, "agent", input=messages, stream_mode="messages-tuple"):
        if part.event == "messages" and part.data[0]["content"]:
            came.append(time.monotonic())
            sys.stdout.write(part.data[0]["content"])
            sys.stdout.flush()
    if len(came) < FEWEST_TOKENS:
        raise SystemExit(f"only {len(came)} tokens came")
    seconds = came[-1] - came[0]
    sys.stdout.write(f"\n  {len(came)} tokens, {(len(came) - 1) / seconds:.1f} a second\n")


async def converse(url: str) -> None:
    """Ask the questions on one thread, and print how much of it the server keeps."""
    async with get_client(url=url, api_key=None, timeout=600) as client:
        thread_id = (await client.threads.create())["thread_id"]
        for question in QUESTIONS:
            await ask(client, thread_id, question)
        state: Any = await client.threads.get_state(thread_id)
        sys.stdout.write(f"\n{len(state['values']['messages'])} messages are on the thread\n")


def main() -> None:
    """Serve with a Postgres of its own, and ask."""
    command = [sys.executable, "-m", "threadkeep", "serve", "--config", str(CONFIG), "--port", "0"]
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "THREADKEEP_DATA_DIR": f"{name}/data"}
        with dist.serving(command, environment, Path(name)) as url:
            asyncio.run(converse(url))


if __name__ == "__main__":
    main()
