// The server has one slot and no line.
import assert from "node:assert/strict";
import { Client, gather, refused, until, url } from "./judge.mjs";

// 2.0 repeats a POST too, with seconds in between.
const client = new Client({ apiUrl: url, apiKey: null, callerOptions: { maxRetries: 0 } });
const input = { items: [] };
const { thread_id: thread } = await client.threads.create();
const { run_id: run } = await client.runs.create(thread, "gated", { input });
await until(() => client.runs.get(thread, run), (found) => found.status === "running");

assert.match(await refused(503, gather(client.runs.stream(null, "chain", { input }))), /every slot is taken/);
assert.match(await refused(503, client.runs.wait(null, "chain", { input })), /every slot is taken/);

assert.deepEqual(await client.runs.cancel(thread, run, true), {});
assert.deepEqual(await client.runs.wait(null, "chain", { input }), { items: ["first", "second"] });
