import assert from "node:assert/strict";
import { NOBODY, client, gather, refused } from "./judge.mjs";

const input = { items: [] };
const { thread_id: thread } = await client.threads.create();

assert.equal(await refused(404, client.threads.get(NOBODY)), `Thread with ID ${NOBODY} not found`);
assert.equal(await refused(409, client.threads.create({ threadId: thread })), `Thread with ID ${thread} already exists`);
assert.equal(await refused(422, client.threads.get("no-uuid")), "Invalid thread ID: must be a UUID");
assert.match(await refused(422, gather(client.runs.stream(thread, "nope", { input }))), /^Invalid assistant: 'nope'/);
assert.match(await refused(404, client.runs.wait(NOBODY, "chain", { input })), /not found/);

await client.runs.create(thread, "gated", { input });
assert.match(
  await refused(409, client.runs.create(thread, "chain", { input, multitaskStrategy: "reject" })),
  /^Thread is already running a task/,
);

const error = { error: "ValueError", message: "the node failed" };
assert.deepEqual(await client.runs.wait(null, "failing", { input, raiseError: false }), { __error__: error });
await assert.rejects(client.runs.wait(null, "failing", { input }), { message: "ValueError: the node failed" });
