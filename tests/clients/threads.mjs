import assert from "node:assert/strict";
import { client, gather, is1x, refused } from "./judge.mjs";

const made = await client.threads.create({ graphId: "chain", metadata: { user: "ada" }, ttl: 60 });
const id = made.thread_id;
assert.deepEqual([made.status, made.values, made.metadata], ["idle", null, { user: "ada", graph_id: "chain" }]);
assert.deepEqual(await client.threads.get(id), made);

const changed = await client.threads.update(id, { metadata: { topic: "tea" } });
assert.deepEqual(changed.metadata, { user: "ada", graph_id: "chain", topic: "tea" });
if (is1x) assert.equal(await client.threads.update(id, { metadata: { topic: "tea" }, returnMinimal: true }), undefined);

const empty = await client.threads.getState(id);
assert.deepEqual([empty.values, empty.next, empty.checkpoint], [{}, [], null]);

await client.runs.wait(id, "chain", { input: { items: ["in"] } });
const history = await client.threads.getHistory(id);
assert.deepEqual(
  history.map((state) => [state.values.items, state.next]),
  [
    [["in", "first", "second"], []],
    [["in", "first"], ["second"]],
    [["in"], ["first"]],
    [[], ["__start__"]],
  ],
);
assert.deepEqual(
  history.map((state) => state.parent_checkpoint),
  [...history.slice(1).map((state) => state.checkpoint), null],
);
const before = { configurable: { checkpoint_id: history[1].checkpoint.checkpoint_id } };
assert.deepEqual(await client.threads.getHistory(id, { before, limit: 1 }), [history[2]]);
assert.deepEqual(await client.threads.getState(id), history[0]);
assert.deepEqual(await client.threads.getState(id, history[1].checkpoint.checkpoint_id), history[1]);
assert.deepEqual(await client.threads.getState(id, history[1].checkpoint, { subgraphs: true }), history[1]);

const written = await client.threads.updateState(id, { values: { items: ["by hand"] }, asNode: "first" });
const state = await client.threads.getState(id);
assert.deepEqual(state.checkpoint, written.checkpoint);
assert.deepEqual([state.values.items, state.next], [["in", "first", "second", "by hand"], ["second"]]);
// The reference does not offer it either.
await refused(405, client.threads.patchState(id, { reviewed: true }));

const found = await client.threads.search({ metadata: { graph_id: "chain" }, limit: 100, offset: 0 });
assert.deepEqual(found, [await client.threads.get(id)]);
assert.deepEqual([found[0].status, found[0].values], ["interrupted", state.values]);
assert.equal(await client.threads.count({ metadata: { user: "ada" } }), 1);

const copy = await client.threads.copy(id);
assert.deepEqual((await client.threads.getState(copy.thread_id)).values, state.values);
if (is1x) assert.deepEqual(await client.threads.prune([copy.thread_id]), { pruned_count: 1 });
else await client.threads.delete(copy.thread_id);

const run = await client.runs.create(id, "chain", { input: { items: [] }, streamResumable: true });
const told = [];
const leaving = new AbortController();
const options = { lastEventId: "-1", streamMode: ["run_modes"], signal: leaving.signal };
for await (const part of client.threads.joinStream(id, options)) {
  told.push([part.event, part.data]);
  if (part.data.status === "run_done" && part.data.run_id === run.run_id) break;
}
// Without it the SDK keeps the connection.
leaving.abort();
assert.deepEqual(told.at(-1), ["metadata", { status: "run_done", run_id: run.run_id }]);
assert.deepEqual(told.filter(([event]) => event === "values").at(-1)[1], (await client.threads.getState(id)).values);

assert.equal(await client.threads.delete(id), undefined);
await refused(404, client.threads.getState(id));
await assert.rejects(gather(client.threads.joinStream(id)), { status: 404 });
