"""Hostile text, wherever it can stand: it runs nothing, loads nothing, and shows what it can of itself."""

import json
from typing import Any

import httpx
from playwright.async_api import Browser, expect

from console_page import Watch, choose_assistant, log, say

SCRIPT = "document.documentElement.dataset.broken='yes'"
URL = "https://evil.example/x"
ELEMENTS = [
    f"<script>{SCRIPT}</script>",
    f"<img src=x onerror=\"{SCRIPT}\">",
    f"<svg onload=\"{SCRIPT}\"><script>{SCRIPT}</script></svg>",
    f"<svg><animate onbegin=\"{SCRIPT}\" attributeName=x></svg>",
    f"<body onload=\"{SCRIPT}\">",
    f"<iframe src=\"javascript:{SCRIPT}\"></iframe>",
    f"<iframe srcdoc=\"<script>{SCRIPT}</script>\"></iframe>",
    f"<object data=\"{URL}\"></object><embed src=\"{URL}\">",
    f"<form action=\"{URL}\"><input autofocus onfocus=\"{SCRIPT}\"><button>go</button></form>",
    f"<details open ontoggle=\"{SCRIPT}\">x</details>",
    f"<video src=x onerror=\"{SCRIPT}\"></video><audio src=\"{URL}\"></audio>",
    f"<math><mtext><table><mglyph><style><img src=x onerror=\"{SCRIPT}\"></style></mglyph></table></mtext></math>",
    f"<noscript><p title=\"</noscript><img src=x onerror={SCRIPT}>\">",
    f"<template><img src=x onerror=\"{SCRIPT}\"></template>",
    f"<link rel=stylesheet href=\"{URL}\"><meta http-equiv=refresh content=\"0;url={URL}\"><base href=\"{URL}\">",
    f"<style>@import '{URL}'; body {{ background: url({URL}) }}</style>",
    f"<p style=\"background:url({URL});position:fixed;inset:0\">styled</p>",
    f"<a href=\"javascript:{SCRIPT}\">click</a>",
    f"<a href=\"data:text/html,<script>{SCRIPT}</script>\">click</a>",
    f"<img src=\"{URL}\" srcset=\"{URL} 2x\">",
    f"<picture><source srcset=\"{URL}\"><img src=\"{URL}\"></picture>",
    "<img src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>\">",
    "<div id=app name=app>clobbered</div><form id=body><input name=attributes></form>",
    f"<x onclick=\"{SCRIPT}\" tabindex=0>custom</x>",
    f"<button popovertarget=x onclick=\"{SCRIPT}\">b</button><dialog open>d</dialog>",
    f"<a href=\"vbscript:{SCRIPT}\">v</a><a href=\" java&#10;script:{SCRIPT}\">w</a>",
    f"<marquee onstart=\"{SCRIPT}\">m</marquee><select autofocus onfocus=\"{SCRIPT}\"></select>",
    f"<textarea autofocus onfocus=\"{SCRIPT}\"></textarea><keygen autofocus onfocus=\"{SCRIPT}\">",
    f"<isindex type=image src=x onerror=\"{SCRIPT}\"><input type=image src=x onerror=\"{SCRIPT}\">",
    f"<<script>{SCRIPT}//<</script>",
]  # fmt: skip
MARKDOWN = [
    f"[click](javascript:{SCRIPT})",
    f"![x](javascript:{SCRIPT})",
    f"![tracker]({URL})",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    f"<javascript:{SCRIPT}>",
    f"[ref]\n\n[ref]: javascript:{SCRIPT}",
    f'[a]({URL} "\\" onmouseover=\\"{SCRIPT}")',
    f"`<img src=x onerror={SCRIPT}>`",
    f"```html\n<script>{SCRIPT}</script>\n```",
    f"```\"><img src=x onerror={SCRIPT}>\ncode\n```",
    f"| a |\n|---|\n| <img src=x onerror=\"{SCRIPT}\"> |",
    "\u202egnp.exe\u202c and \u2066isolated\u2069",
    "> " * 400 + "deep",
    "- " * 300 + "deep",
    "[" * 2000 + "x" + "]" * 2000,
    "*" * 3000 + "a" + "*" * 3000,
    "`" * 4001,
    "<div>" * 2000 + "nested",
    "|" + "a|" * 100 + "\n|" + "-|" * 100 + "\n" + ("|" + "b|" * 100 + "\n") * 100,
    "x" * 200_000,
    "word " * 60_000,
    "\u0000\ufffe\ud83d\ude00",
    "a\u0300" * 5000,
    "$$\\href{javascript:alert(1)}{x}$$",
    "<!--[if IE]><script>x</script><![endif]--><?php x ?><![CDATA[<script>]]>",
]  # fmt: skip
CORPUS = ELEMENTS + MARKDOWN + [f"{text}\n\n{text}" for text in ELEMENTS[:8]]


def messages() -> list[dict[str, Any]]:
    """The corpus as what models, users and tools say, one after the other."""
    said: list[dict[str, Any]] = []
    for index, text in enumerate(CORPUS):
        call = {"id": f"call{index}", "name": text[:200] or "x", "args": {"text": text[:2000]}}
        said += [
            {"type": "human", "content": text[:5000], "id": f"human{index}"},
            {"type": "ai", "content": text, "id": f"ai{index}", "tool_calls": [call] if index % 3 == 0 else []},
        ]
        if index % 3 == 0:
            said.append({"type": "tool", "content": text, "tool_call_id": f"call{index}", "id": f"tool{index}"})
    return said


PARSED = ("Executing inline event handler", "Applying inline style", "Setting the document's base URI")
"""How the browser tells of what the sanitizer parses, in a document that is never shown and runs nothing."""


async def test_hostile_text_runs_nothing_and_loads_nothing(console: str, browser: Browser) -> None:
    """Issue: as text, tool call, result and title. What the policy reports is of the sanitizer's own parsing."""
    context = await browser.new_context()
    page = await context.new_page()
    watch = Watch(page)
    async with httpx.AsyncClient(base_url=console.removesuffix("/console/"), timeout=30) as http:
        thread = (await http.post("/threads", json={"metadata": {"graph_id": "echo", "title": ELEMENTS[1]}})).json()
        body = json.dumps({"values": {"messages": messages()}, "as_node": "node"}).encode()
        headers = {"content-type": "application/json"}
        made = await http.post(f"/threads/{thread['thread_id']}/state", content=body, headers=headers)
        assert made.status_code == 200, made.text

    await page.goto(f"{console}threads/{thread['thread_id']}")
    await expect(page.locator("article.message").first).to_be_visible()
    while await page.get_by_role("button", name="earlier message").count():
        await page.get_by_role("button", name="earlier message").click()
    await expect(page.locator("article.human")).to_have_count(len(CORPUS))
    for call in await page.locator("details.call > summary").all():
        await call.click()
    await page.reload()
    await expect(log(page).locator("article.message").last).to_be_visible()

    assert await page.evaluate("document.documentElement.dataset.broken ?? null") is None
    forbidden = (
        "script, style, iframe, object, embed, form form, svg:not(.icon), video, audio, [style], [onerror], [onload]"
    )
    inside = page.locator(".markdown").locator(forbidden)
    assert await inside.count() == 0
    links = await page.locator(".markdown a[href]").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) <= {"https:", "http:", "mailto:"}
    pictures = await page.locator(".markdown img").evaluate_all("pictures => pictures.map(picture => picture.src)")
    assert [source for source in pictures if not source.startswith("data:image/")] == []
    assert watch.errors == []
    assert watch.foreign() == []
    assert [each for each in watch.violations if not each.startswith(PARSED)] == []
    await context.close()


async def test_hostile_questions_errors_and_file_names_run_nothing(console: str, browser: Browser) -> None:
    """Issue: whatever a graph asks, however it fails, and however a file is called; a line of a megabyte freezes nothing."""
    context = await browser.new_context()
    page = await context.new_page()
    watch = Watch(page)
    everything = "\n\n".join(ELEMENTS + MARKDOWN[:16])
    await page.goto(console)
    await page.locator('input[type="file"]').set_input_files(
        [{"name": f"{ELEMENTS[1][:80]}.txt", "mimeType": "text/plain", "buffer": everything.encode()}]
    )
    await choose_assistant(page, "asking")
    await say(page, everything)
    question = page.locator(".interrupt")
    await expect(question.first).to_be_visible()
    await expect(question).to_have_count(1)
    await question.get_by_label("Your answer", exact=True).fill(everything)
    await question.get_by_role("button", name="Send answer").click()
    await expect(page.get_by_role("alert").filter(has_text="The run failed.")).to_be_visible(timeout=20_000)
    await page.wait_for_url("**/threads/*")
    await page.goto(f"{page.url.partition('?')[0]}?inspect=1")
    await page.get_by_label("Run", exact=True).select_option(index=1)  # the answer's run failed before its first step
    await page.get_by_role("region", name="Steps").get_by_role("button").last.click()
    await expect(page.locator(".step-detail")).to_be_visible()

    assert await page.evaluate("document.documentElement.dataset.broken ?? null") is None
    inside = page.locator("main").locator("script, iframe, object, embed, [onerror], [onload]")
    assert await inside.count() == 0
    assert watch.errors == []
    assert watch.foreign() == []
    assert [each for each in watch.violations if not each.startswith(PARSED)] == []
    await context.close()
