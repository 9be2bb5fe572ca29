// A run by the types that openapi-typescript generates. Arguments: the server's URL. Prints what it got, as JSON.

import type { components, operations } from "./threadkeep.js";

declare const process: { argv: string[] };

type Body<Name extends keyof operations> = operations[Name] extends {
  requestBody: { content: { "application/json": infer Shape } };
}
  ? Shape
  : never;
type Events = operations["create_run_and_stream"]["responses"][200]["content"]["text/event-stream"];
type Answer<Name extends keyof operations> = operations[Name] extends {
  responses: { 200: { content: { "application/json": infer Shape } } };
}
  ? Shape
  : never;

const url = process.argv[2];
const send = (path: string, body: unknown) =>
  fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const thread: Answer<"create_thread"> = await (await send("/threads", { metadata: { topic: "sums" } })).json();
const body: Body<"create_run"> = { assistant_id: "chain", input: { items: [] } };
const run: Answer<"create_run"> = await (await send(`/threads/${thread.thread_id}/runs`, body)).json();
await (await fetch(`${url}/threads/${thread.thread_id}/runs/${run.run_id}/join`)).json();
const done: components["schemas"]["Run"] = await (
  await fetch(`${url}/threads/${thread.thread_id}/runs/${run.run_id}`)
).json();
const streamed: Events = await (await send(`/threads/${thread.thread_id}/runs/stream`, body)).text();
const refused: components["schemas"]["Problem"] = await (await fetch(`${url}/threads/no`)).json();
console.log(JSON.stringify({ status: done.status, streamed, refused: refused.code }));
