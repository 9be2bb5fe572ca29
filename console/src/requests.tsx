/** What the page has changed by the API, each as a command that does the same. */

import { sent, type SentRequest } from "./api.ts";
import { info } from "./server-state.ts";
import { copy, Dialog, Time } from "./ui.tsx";
import { words } from "./words.ts";

/** A text that a shell takes as one word, whatever is in it. */
export function shellWord(text: string): string {
  // Within single quotes a shell reads everything literally, except a single quote.
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The header that shows who calls, with the key in a variable: the page itself does not know it. */
function credential(): { name: string; prefix: string } | null {
  const kind = info.value?.auth?.kind ?? "none";
  if (kind === "none") return null;
  return kind === "jwt" ? { name: "authorization", prefix: "Bearer " } : { name: "x-api-key", prefix: "" };
}

export function curlOf({ method, path, body }: SentRequest): string {
  const key = credential();
  return [
    `curl -s -X ${method} ${shellWord(location.origin + path)}`,
    ...(key ? [`-H "${key.name}: ${key.prefix}$THREADKEEP_KEY"`] : []),
    ...(body === undefined ? [] : ["-H 'content-type: application/json'", `-d ${shellWord(JSON.stringify(body))}`]),
  ].join(" ");
}

export function pythonOf({ method, path, body }: SentRequest): string {
  const key = credential();
  const headers = key ? `, headers={"${key.name}": f"${key.prefix}{os.environ['THREADKEEP_KEY']}"}` : "";
  const json = body === undefined ? "" : `, json=${pythonLiteral(body)}`;
  return [
    ...(key ? ["import os", ""] : []),
    "import httpx",
    "",
    `answer = httpx.request("${method}", ${JSON.stringify(location.origin + path)}${json}${headers})`,
    "answer.raise_for_status()",
    "print(answer.text)",
  ].join("\n");
}

/** A JSON value as Python writes it. */
export function pythonLiteral(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${pythonLiteral(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

export function Requests({ onClose }: { onClose: () => void }) {
  return (
    <Dialog label={words.requestsTitle} onClose={onClose} wide>
      <h2>{words.requestsTitle}</h2>
      <p class="muted">{sent.value.length === 0 ? words.noRequests : words.requestsHelp}</p>
      <ul class="requests">
        {sent.value.map((request) => (
          <li key={request.number}>
            <code dir="ltr">{request.method} {request.path}</code> <span class="muted"><Time iso={request.at} /></span>
            <span class="copy-as">
              <button type="button" class="quiet" onClick={() => copy(curlOf(request))}>{words.copyCurl}</button>
              <button type="button" class="quiet" onClick={() => copy(pythonOf(request))}>{words.copyPython}</button>
            </span>
          </li>
        ))}
      </ul>
      <div class="buttons"><button type="button" onClick={onClose}>{words.close}</button></div>
    </Dialog>
  );
}
