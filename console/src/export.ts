/** A conversation as one file: HTML without scripts, Markdown, or JSON. */

import { saveFile } from "./graph.tsx";
import { safeHtml } from "./markdown.tsx";
import { picturesOf, textOf, type Message } from "./messages.ts";
import { words } from "./words.ts";

export type ExportFormat = "html" | "md" | "json";

const STYLE =
  "body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}" +
  "section{border-top:1px solid #8886;padding:.5rem 0}h2{font-size:.85rem;opacity:.75}pre{overflow:auto;background:#8882;padding:.6rem;border-radius:6px}img{max-width:100%}";

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

function sectionOf(message: Message): string {
  const text = textOf(message.content);
  const calls = (message.tool_calls ?? []).map((call) => `<pre>${escaped(`${call.name} ${JSON.stringify(call.args)}`)}</pre>`).join("");
  const pictures = picturesOf(message.content).data.map((address) => `<img alt="" src="${escaped(address)}">`).join("");
  const body = message.type === "human" ? `<p style="white-space:pre-wrap">${escaped(text)}</p>` : safeHtml(text);
  return `<section dir="auto"><h2>${escaped(words.roles[message.type] ?? message.type)}</h2>${body}${pictures}${calls}</section>`;
}

/** The file holds all it shows. Its policy lets it run nothing and load nothing. */
export function htmlOf(title: string, messages: Message[]): string {
  // The file is opened without this server, so only its own policy protects the reader.
  const policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${policy}"><title>${escaped(title)}</title><style>${STYLE}</style><h1 dir="auto">${escaped(title)}</h1>${messages.map(sectionOf).join("")}</html>\n`;
}

export function exportThread(title: string, messages: Message[], format: ExportFormat): void {
  // A title may have characters that file systems do not allow.
  const name = `${title.replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 60) || "thread"}.${format}`;
  if (format === "html") saveFile(htmlOf(title, messages), name, "text/html");
  else if (format === "json") saveFile(JSON.stringify(messages, null, 2), name, "application/json");
  else saveFile(messages.map((message) => `## ${words.roles[message.type] ?? message.type}\n\n${textOf(message.content)}\n`).join("\n"), name, "text/markdown");
}
