"""The story of a killed server as an animated image for the README: `make story` writes docs/images/kill-9.gif."""

import json
import sys
import tempfile
from pathlib import Path

import anyio
from playwright.async_api import Page, async_playwright, expect

from console_page import log, say
from faults.servers import Place, Replica, free_port
from gif import Frame, gif
from threadkeep.postgres import embedded

FILE = Path(__file__).parents[1] / "docs" / "images" / "kill-9.gif"
GRAPH = "from threadkeep.agent import build\n\nagent = build(pause_s=0.12)\n"
SETTINGS = {"THREADKEEP_LEASE": "1.5", "THREADKEEP_SWEEP": "0.3"}
SIZE = {"width": 860, "height": 460}
STEP_S = 0.25
TERMINAL = """
text => {
  document.getElementById('story')?.remove();
  const element = document.createElement('pre');
  element.id = 'story';
  element.textContent = text;
  const style = {position: 'fixed', insetBlockEnd: '0', insetInline: '0', margin: '0', padding: '8px 14px', background: '#111',
    color: '#eee', font: '14px monospace', zIndex: 99, blockSize: '64px'};
  Object.assign(element.style, style);
  document.body.append(element);
  document.getElementById('app').style.blockSize = 'calc(100dvh - 64px)';
}
"""


class Story:
    """Takes a picture every quarter of a second. What it types into the terminal is seen below the page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.frames: list[Frame] = []

    async def type(self, text: str) -> None:
        """Show these lines in the terminal."""
        await self._page.evaluate(TERMINAL, text)
        await self.take(1)

    async def take(self, times: int, *, seconds: float = STEP_S) -> None:
        """Take so many pictures, at the speed at which they are seen."""
        for _ in range(times):
            self.frames.append(Frame(await self._page.screenshot(), seconds))
            await anyio.sleep(STEP_S / 2)


async def tell(place: Place) -> list[Frame]:
    """Ask, kill the server in the middle of its answer, start it again, and wait for the end."""
    server = Replica(place, SETTINGS, free_port())
    await server.start()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = await browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        try:
            await page.goto(f"{server.url}/console/")
            await page.emulate_media(reduced_motion="reduce")
            story = Story(page)
            await story.type("$ make serve\nconsole at http://127.0.0.1:2024/console/")
            await say(page, "Tell me what you are")
            await expect(log(page)).to_contain_text("This is the offline")
            await story.take(4)
            await server.kill()
            await story.type("$ kill -9 $(pgrep -f 'threadkeep serve')")
            await expect(page.locator(".live")).to_contain_text("Reconnecting")
            await story.take(7)
            await server.start()
            await story.type("$ make serve\nconsole at http://127.0.0.1:2024/console/")
            while await page.locator(".live").count():
                await story.take(1)
            await story.take(1, seconds=4)
        finally:
            await browser.close()
            await server.kill()
    return story.frames


def main() -> None:
    """Write the file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.embedded_postgres(Path(folder) / "data", durable=False) as uri,
    ):
        place = Place(Path(folder), uri)
        (place.folder / "graph.py").write_text(GRAPH)
        project = {"dependencies": ["."], "graphs": {"agent": "./graph.py:agent"}}
        (place.folder / "langgraph.json").write_text(json.dumps(project))
        frames = anyio.run(tell, place)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(gif(frames))
    sys.stdout.write(f"{FILE.name}: {len(frames)} pictures, {FILE.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
