"""What a person does on the console's page, by what they see."""

import re

from playwright.async_api import ConsoleMessage, Error, Locator, Page, Request, expect


def message_box(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


async def say(page: Page, text: str) -> None:
    """Write a message and send it by the keyboard."""
    await message_box(page).fill(text)
    await message_box(page).press("Enter")


def log(page: Page) -> Locator:
    """The conversation that is seen."""
    return page.get_by_role("region", name="Conversation")


async def shown(page: Page) -> list[str]:
    """The texts of the messages, in their order."""
    return [text.strip() for text in await page.locator("article.message").all_inner_texts()]


async def until_shown(page: Page, *texts: str) -> None:
    """Wait until the messages are these, each by the text that it begins with, and no run goes on."""
    await expect(page.locator("article.message")).to_have_text(
        [re.compile(rf"^\s*{re.escape(text)}") for text in texts]
    )
    await expect(page.locator(".live")).to_have_count(0)


async def choose_assistant(page: Page, name: str) -> None:
    await page.get_by_label("Assistant", exact=True).select_option(label=name)


async def open_thread(page: Page) -> str:
    """The id of the thread that is shown."""
    await page.wait_for_url(re.compile(r"/threads/[0-9a-f-]{36}"))
    match = re.search(r"/threads/([0-9a-f-]{36})", page.url)
    assert match is not None
    return match[1]


class Watch:
    """What no page may do, and what this one did of it."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.violations: list[str] = []
        """Of the page's policy, by what the browser says of them."""
        self.requests: list[str] = []
        page.on("pageerror", self._error)
        page.on("console", self._message)
        page.on("request", self._request)

    def _error(self, error: Error) -> None:
        self.errors.append(error.message)

    def _message(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            self.violations.append(message.text)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)

    def foreign(self) -> list[str]:
        """Requests that left this machine."""
        return [url for url in self.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
