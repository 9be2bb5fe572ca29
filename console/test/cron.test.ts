import assert from "node:assert/strict";
import { test } from "node:test";
import { nextTimes } from "../src/cron.ts";

const NOW = Date.parse("2026-03-27T12:03:30Z");
const times = (schedule: string, zone = "UTC", amount = 3) => nextTimes(schedule, zone, NOW, amount).map((time) => new Date(time).toISOString().slice(0, 16));

test("steps, lists, ranges and names", () => {
  assert.deepEqual(times("*/5 * * * *"), ["2026-03-27T12:05", "2026-03-27T12:10", "2026-03-27T12:15"]);
  assert.deepEqual(times("0 9,17 * * mon-fri"), ["2026-03-27T17:00", "2026-03-30T09:00", "2026-03-30T17:00"]);
  assert.deepEqual(times("30 0 1 jan *", "UTC", 1), ["2027-01-01T00:30"]);
});

test("a day of the month or a day of the week, as cron has it", () => {
  assert.deepEqual(times("0 0 1 * sun"), ["2026-03-29T00:00", "2026-04-01T00:00", "2026-04-05T00:00"]);
});

test("times are those of the zone, over the change to summer time", () => {
  assert.deepEqual(times("0 9 * * *", "Europe/Berlin"), ["2026-03-28T08:00", "2026-03-29T07:00", "2026-03-30T07:00"]);
});

test("a schedule that is not known has no times", () => {
  assert.deepEqual(times("*/5 * * * * *"), []);
  assert.deepEqual(times("nonsense"), []);
  assert.deepEqual(times("0 0 31 feb *"), []);
});
