import assert from "node:assert/strict";
import { client, gather } from "./judge.mjs";

const input = { items: [] };

async function stream(graph, streamMode, options = {}) {
  const { thread_id } = await client.threads.create();
  const parts = client.runs.stream(thread_id, graph, { input, streamMode, ...options });
  const [[event, data], ...rest] = await gather(parts);
  assert.deepEqual([event, Object.keys(data)], ["metadata", ["run_id", "attempt"]]);
  return rest;
}
const names = (parts) => parts.map(([event]) => event);

assert.deepEqual(await stream("chain", "values"), [
  ["values", { items: [] }],
  ["values", { items: ["first"] }],
  ["values", { items: ["first", "second"] }],
]);
assert.deepEqual(await stream("chain", "updates"), [
  ["updates", { first: { items: ["first"] } }],
  ["updates", { second: { items: ["second"] } }],
]);
assert.deepEqual(await stream("writing", ["custom"]), [["custom", { progress: 1 }]]);

const chat = { input: { messages: [{ type: "human", content: "hi", id: "question" }] } };
const tokens = await stream("speaking", "messages-tuple", chat);
assert.deepEqual(new Set(names(tokens)), new Set(["messages"]));
assert.equal(tokens.map(([, [chunk]]) => chunk.content).join(""), "word0 word1 word2 word3 word4");
assert.deepEqual(
  new Set(tokens.map(([, [chunk, metadata]]) => `${chunk.type} ${chunk.id} ${metadata.langgraph_node}`)),
  new Set(["AIMessageChunk answer-1 speak"]),
);

const growing = await stream("speaking", "messages", chat);
assert.deepEqual(names(growing).slice(0, 2), ["messages/metadata", "messages/partial"]);
assert.equal(growing.at(-1)[1][0].content, "word0 word1 word2 word3 word4");

const tasks = await stream("chain", "tasks");
assert.deepEqual(
  tasks.map(([event, data]) => [event, data.name, "result" in data]),
  [
    ["tasks", "first", false],
    ["tasks", "first", true],
    ["tasks", "second", false],
    ["tasks", "second", true],
  ],
);

const checkpoints = await stream("chain", "checkpoints");
assert.deepEqual(
  checkpoints.map(([event, data]) => [event, data.values.items, data.next]),
  [
    ["checkpoints", [], ["__start__"]],
    ["checkpoints", [], ["first"]],
    ["checkpoints", ["first"], ["second"]],
    ["checkpoints", ["first", "second"], []],
  ],
);

const debug = await stream("chain", "debug");
assert.deepEqual(new Set(debug.map(([, data]) => data.type)), new Set(["checkpoint", "task", "task_result"]));

const events = await stream("chain", "events");
assert.deepEqual(new Set(names(events)), new Set(["events"]));
assert.ok(events.some(([, data]) => data.event === "on_chain_end" && data.name === "second"));

const nested = await stream("parent", ["updates"], { streamSubgraphs: true });
assert.deepEqual(names(nested).map((event) => event.replace(/:.*/, "")), ["updates|child", "updates", "updates"]);

const interrupted = await stream("asking", ["values", "updates"]);
const [{ id, value }] = interrupted.at(-1)[1].__interrupt__;
assert.deepEqual([typeof id, value], ["string", { question: "which?" }]);

assert.deepEqual((await stream("failing", "values")).at(-1), [
  "error",
  { error: "ValueError", message: "the node failed" },
]);
