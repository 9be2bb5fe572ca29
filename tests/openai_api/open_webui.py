"""Two turns in Open WebUI with a browser: its titles, tags and follow-up prompts must leave no trace on the thread.

Not a part of the suite, because Open WebUI takes 7 GB. With Debian's chromium:

    python3.11 -m venv webui && webui/bin/pip install open-webui
    .venv/bin/python tests/openai_api/open_webui.py webui/bin/open-webui

Starts a server and Open WebUI on free ports, and ends them. Prints one line, and exits with 1 if the thread is wrong.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

EXPECTED = ["My name is Ada.", "Hello, Ada. I keep your name in this thread.", "What is my name?", "Your name is Ada."]
START_S = 180
PATIENCE_MS = 60_000


def main() -> int:
    """Start both, chat, and compare the thread."""
    with tempfile.TemporaryDirectory() as folder:
        server, page = _free_port(), _free_port()
        ours = {"PORT": str(server), "THREADKEEP_DATA_DIR": f"{folder}/ours"}
        with (
            _running([sys.executable, "-m", "threadkeep", "serve"], ours, f"http://127.0.0.1:{server}/ok"),
            _running(
                [sys.argv[1], "serve", "--host", "127.0.0.1", "--port", str(page)],
                _open_webui(folder, server),
                f"http://127.0.0.1:{page}/health",
            ),
        ):
            _chat(f"http://127.0.0.1:{page}")
            threads: list[dict[str, Any]] = httpx.post(f"http://127.0.0.1:{server}/threads/search", json={}).json()
    told = [[message["content"] for message in thread["values"]["messages"]] for thread in threads]
    sys.stdout.write("the thread has the two turns alone\n" if told == [EXPECTED] else f"the threads are {told}\n")
    return int(told != [EXPECTED])


def _open_webui(folder: str, server: int) -> dict[str, str]:
    return {
        "DATA_DIR": f"{folder}/webui",
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "of this script",
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_MODEL": "",
        "ENABLE_OLLAMA_API": "false",
        "OPENAI_API_BASE_URL": f"http://127.0.0.1:{server}/v1",
        "OPENAI_API_KEY": "any",
        "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def _running(command: Sequence[str], settings: Mapping[str, str], ready: str) -> Generator[None]:
    """Run a server for the block."""
    with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(ready, process)
            yield
        finally:
            process.terminate()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    raise RuntimeError(f"no answer at {url}")


def _chat(url: str) -> None:
    """Ask twice, and ask the second question again by the button."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path="/usr/bin/chromium") as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{url}/?models=agent")
        page.locator("#chat-input").wait_for()
        page.locator("[role=dialog] button", has_text="Okay").click()
        _ask(page, EXPECTED[0], EXPECTED[1])
        page.wait_for_function("document.title.includes('Ada')")  # the title was made by a prompt of its own
        _ask(page, EXPECTED[2], EXPECTED[3])
        page.get_by_role("button", name="Regenerate").last.click()
        if (again := page.get_by_text("Try Again", exact=True)).count():
            again.click()
        page.get_by_text("2/2").wait_for()
        page.get_by_text(EXPECTED[3]).last.wait_for()
        page.get_by_role("button", name="Regenerate").last.wait_for()


def _ask(page: Page, question: str, answer: str) -> None:
    page.locator("#chat-input").click()
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    page.get_by_text(answer).last.wait_for()
    page.get_by_role("button", name="Regenerate").last.wait_for()


if __name__ == "__main__":
    sys.exit(main())
