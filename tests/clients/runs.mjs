import assert from "node:assert/strict";
import { client, gather, is1x, refused, until } from "./judge.mjs";

const input = { items: [] };
const done = { items: ["first", "second"] };
const { thread_id: thread } = await client.threads.create();

const told = [];
const onRunCreated = (ids) => told.push(ids);
const options = { input, streamResumable: true, metadata: { n: 1 }, onRunCreated };
const run = await client.runs.create(thread, "chain", options);
assert.deepEqual(await client.runs.join(thread, run.run_id), done);
const ended = await client.runs.get(thread, run.run_id);
assert.deepEqual([ended.status, ended.metadata.n, ended.multitask_strategy], ["success", 1, "enqueue"]);
assert.deepEqual(await client.runs.list(thread, { status: "success" }), [ended]);
assert.deepEqual(await client.runs.list(thread, { select: ["run_id"] }), [{ run_id: run.run_id }]);

const fromTheStart = { lastEventId: "-1", streamMode: ["values"] };
assert.deepEqual(await gather(client.runs.joinStream(thread, run.run_id, fromTheStart)), [
  ["metadata", { run_id: run.run_id, attempt: 1 }],
  ["values", { items: [] }],
  ["values", { items: ["first"] }],
  ["values", done],
]);

await client.runs.wait(thread, "chain", { input, onRunCreated });
await gather(client.runs.stream(thread, "chain", { input, onRunCreated }));
assert.deepEqual(told.map((ids) => ids.thread_id), [thread, thread, thread]);
const listed = await client.runs.list(thread);
assert.deepEqual(told.map((ids) => ids.run_id).reverse(), listed.map((one) => one.run_id));

assert.equal(await client.runs.delete(thread, run.run_id), undefined);
await refused(404, client.runs.get(thread, run.run_id));

// Without a thread: the ids are told all the same.
told.length = 0;
assert.deepEqual(await client.runs.wait(null, "chain", { input, onRunCreated }), done);
const streamed = await gather(client.runs.stream(null, "chain", { input, onRunCreated }));
const left = await client.runs.create(null, "chain", { input, onRunCreated, onCompletion: "keep" });
assert.equal(told[1].run_id, streamed[0][1].run_id);
assert.deepEqual(told[2], { run_id: left.run_id, thread_id: left.thread_id });
assert.ok(told.every((ids) => ids.thread_id));

// The SDK sends the fields of a batch as they are written.
const one = { assistantId: "chain", input, on_completion: "keep" };
const batch = await client.runs.createBatch([one, one]);
for (const each of batch) assert.deepEqual(await client.runs.join(each.thread_id, each.run_id), done);

/** A run that waits at the gate. */
async function waiting() {
  const { thread_id } = await client.threads.create();
  const { run_id } = await client.runs.create(thread_id, "gated", { input });
  await until(() => client.runs.get(thread_id, run_id), (found) => found.status === "running");
  return [thread_id, run_id];
}
const statuses = async (id) => (await client.runs.list(id)).map((each) => each.status);
const idle = (id) => until(() => client.threads.get(id), (found) => found.status !== "busy");

const stopped = await waiting();
assert.deepEqual(await client.runs.cancel(...stopped, true), {});
assert.deepEqual(await statuses(stopped[0]), ["interrupted"]);

const takenBack = await waiting();
assert.equal(await client.runs.cancel(...takenBack, false, "rollback"), undefined);
await idle(takenBack[0]);
assert.deepEqual(await statuses(takenBack[0]), []);
await refused(404, client.runs.cancel(...stopped));

if (is1x) {
  const [threadId, runId] = await waiting();
  assert.equal(await client.runs.cancelMany({ threadId, runIds: [runId] }), undefined);
  await idle(threadId);
  assert.deepEqual(await statuses(threadId), ["interrupted"]);
}

// Whoever leaves a joined run may take it along.
const [watched, watchedRun] = await waiting();
const leaving = new AbortController();
const joined = client.runs.joinStream(watched, watchedRun, { cancelOnDisconnect: true, signal: leaving.signal });
const first = joined.next().catch(() => "left");
await until(() => client.threads.get(watched), (found) => found.status === "busy");
setImmediate(() => leaving.abort());
await first;
await idle(watched);
assert.deepEqual(await statuses(watched), ["interrupted"]);
