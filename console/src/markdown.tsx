/** Markdown of models, tools and users. This is the only place at which HTML is made, and all of it is sanitized. */

import DOMPurify from "dompurify";
import { marked, type Token, type TokensList } from "marked";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { memo } from "./memo.ts";
import { words } from "./words.ts";

const MAX_CHARS = 200_000;
/** Of a text that is shown as it is. The browser would take seconds to lay out a line of a megabyte. */
const MAX_PLAIN_CHARS = 50_000;

// Texts come from models and tools, so whatever a page could be harmed by is forbidden twice: here and by the policy.
const SANITIZE = {
  RETURN_TRUSTED_TYPE: true as const,
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "iframe", "svg", "math", "audio", "video", "source", "dialog", "template"],
  FORBID_ATTR: ["style", "srcset", "class", "id", "name", "usemap", "background", "poster", "popover", "popovertarget", "is", "slot", "tabindex", "accesskey"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp|avif);base64,)/i,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    const address = node.getAttribute("href") ?? "";
    if (!/^(https?:|mailto:)/i.test(address)) node.removeAttribute("href");
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
  if (node.tagName === "IMG") replacePicture(node);
});

/** A picture that is not in the text itself is shown as a link: loading it would tell its host of the reader. */
function replacePicture(node: Element): void {
  const address = node.getAttribute("src") ?? "";
  if (address.startsWith("data:")) return;
  const link = document.createElement("a");
  link.textContent = node.getAttribute("alt") || address;
  if (/^https?:/i.test(address)) {
    link.href = address;
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  node.replaceWith(link);
}

function sanitized(html: string): string {
  return DOMPurify.sanitize(html, SANITIZE) as unknown as string;
}

/** Markdown as HTML that is safe in a file of its own. */
export function safeHtml(text: string): string {
  return String(sanitized(marked.parse(text.slice(0, MAX_CHARS), { async: false })));
}

interface Block {
  token: Token;
  links: TokensList["links"];
}

function blocksOf(text: string): Block[] {
  const tokens = marked.lexer(text);
  return tokens.filter((token) => token.type !== "space").map((token) => ({ token, links: tokens.links }));
}

/** Text as Markdown. Only blocks whose source changed are rendered again, so that a stream stays cheap. */
export function Markdown({ text }: { text: string }) {
  const blocks = useMemo(() => (text.length > MAX_CHARS ? null : parsed(text)), [text]);
  if (blocks === null) return <pre class="plain" dir="auto" tabIndex={0}>{text.length > MAX_PLAIN_CHARS ? `${text.slice(0, MAX_PLAIN_CHARS)}… ${words.cut}` : text}</pre>;
  return (
    <div class="markdown" dir="auto">
      {blocks.map(({ token }, index) =>
        token.type === "code" ? (
          <Code key={index} text={String(token.text)} language={String(token.lang ?? "")} />
        ) : (
          <Html key={index} token={token} raw={token.raw} />
        ),
      )}
    </div>
  );
}

/** Null if the parser gives up, as it does on absurd nesting: the text is then shown as it is. */
function parsed(text: string): Block[] | null {
  try {
    return blocksOf(text);
  } catch {
    return null;
  }
}

const Html = memo(
  function Html({ token }: { token: Token; raw: string }) {
    const element = useRef<HTMLDivElement>(null);
    useLayoutEffect(() => {
      if (!element.current) return;
      try {
        element.current.innerHTML = sanitized(marked.parser([token]));
      } catch {
        element.current.textContent = token.raw;
      }
    });
    return <div ref={element} />;
  },
  (before, after) => before.raw === after.raw && before.token.type === after.token.type,
);

function Code({ text, language }: { text: string; language: string }) {
  const element = useRef<HTMLElement>(null);
  const name = /^[\w+-]{1,20}/.exec(language)?.[0].toLowerCase() ?? "";
  useEffect(() => {
    const target = element.current;
    if (!target) return;
    // Plain at first: the code is readable before the highlighter has been loaded.
    target.textContent = text;
    if (!name || text.length > 20_000) return;
    let isCurrent = true;
    // Highlighting waits until the block has been quiet for a moment: it is work that each token would repeat.
    const timer = setTimeout(() => {
      void import("./highlight.ts").then(({ highlighted }) => {
        const html = highlighted(text, name);
        if (html !== null && isCurrent) target.innerHTML = DOMPurify.sanitize(html, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_TRUSTED_TYPE: true }) as unknown as string;
      });
    }, 150);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [text, name]);
  return (
    <div class="code">
      <div class="code-head">
        <span>{name}</span>
        <button type="button" class="quiet" onClick={() => void navigator.clipboard?.writeText(text)}>{words.copy}</button>
      </div>
      <pre tabIndex={0} dir="ltr"><code ref={element} /></pre>
    </div>
  );
}
