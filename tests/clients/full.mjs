// The server has one slot and no line.
import assert from "node:assert/strict";
import { client, gather, refused, until } from "./judge.mjs";

const input = { items: [] };
const { thread_id: thread } = await client.threads.create();
const { run_id: run } = await client.runs.create(thread, "gated", { input });
await until(() => client.runs.get(thread, run), (found) => found.status === "running");

assert.match(await refused(503, gather(client.runs.stream(null, "chain", { input }))), /every slot is taken/);
assert.match(await refused(503, client.runs.wait(null, "chain", { input })), /every slot is taken/);

assert.deepEqual(await client.runs.cancel(thread, run, true), {});
assert.deepEqual(await client.runs.wait(null, "chain", { input }), { items: ["first", "second"] });
