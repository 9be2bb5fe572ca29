import assert from "node:assert/strict";
import { client, is1x, refused } from "./judge.mjs";

const schedule = "0 0 1 1 *";
const { thread_id: thread } = await client.threads.create();

const made = await client.crons.create("chain", { schedule, input: { items: [] }, metadata: { team: 1 } });
const bound = await client.crons.createForThread(thread, "chain", { schedule, timezone: "Europe/Berlin" });
// 2.0 does not send the time zone.
const timezone = is1x ? "Europe/Berlin" : null;
assert.deepEqual([made.thread_id, bound.thread_id, bound.timezone], [null, thread, timezone]);

const changed = await client.crons.update(made.cron_id, { enabled: false, metadata: { floor: 2 } });
assert.deepEqual([changed.enabled, changed.metadata], [false, { team: 1, floor: 2 }]);
assert.deepEqual(await client.crons.search({ threadId: thread }), [bound]);
assert.deepEqual(await client.crons.search({ enabled: false, select: ["cron_id"] }), [{ cron_id: made.cron_id }]);
assert.equal(await client.crons.count({ threadId: thread }), 1);
assert.match(await refused(422, client.crons.create("chain", { schedule: "never" })), /schedule/i);

assert.equal(await client.crons.delete(made.cron_id), undefined);
assert.deepEqual((await client.crons.search()).map((cron) => cron.cron_id), [bound.cron_id]);
