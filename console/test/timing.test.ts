import assert from "node:assert/strict";
import { test } from "node:test";
import { timesOf } from "../src/timing.ts";

const event = (name: string) => ({ name, data: "{}", id: "" });
const step = (startMs: number, endMs: number, ...names: string[]) => ({ checkpoint_id: `${endMs}`, names, startMs, endMs });

test("the events of a step are spread over it, and the last one ends it", () => {
  const steps = [step(1000, 1000, "input"), step(1000, 1400, "model"), step(1400, 1500, "tools")];
  const events = [event("messages"), event("messages"), event("messages"), event("updates"), event("updates")];
  assert.deepEqual(timesOf(events, steps, 1000).map(({ atMs }) => atMs), [100, 200, 300, 400, 500]);
});

test("a run without steps has all its events at once", () => {
  assert.deepEqual(timesOf([event("metadata"), event("updates")], [], 1000).map(({ atMs }) => atMs), [0, 0]);
});

test("events after the last step are not lost", () => {
  const times = timesOf([event("updates"), event("error")], [step(0, 100, "model")], 0).map(({ atMs }) => atMs);
  assert.equal(times.length, 2);
  assert.ok(times.every((each) => each <= 100));
});
