// The connection is cut while an answer is coming.
import assert from "node:assert/strict";
import { client, wish } from "./judge.mjs";

const { thread_id: thread } = await client.threads.create();
const options = { input: { items: ["in"] }, streamMode: ["values", "updates"], streamResumable: true };
const found = [];
for await (const { event, data } of client.runs.stream(thread, "gated", options)) {
  found.push([event, data]);
  if (event === "values" && found.length === 2) wish("cut the line");
}
assert.deepEqual(found.slice(1), [
  ["values", { items: ["in"] }],
  ["updates", { gate: { items: ["gated"] } }],
  ["values", { items: ["in", "gated"] }],
]);
