import assert from "node:assert/strict";
import { test } from "node:test";
import { CheckpointTree, firstReached, type CheckpointRow } from "../src/branches.ts";

function row(id: string, parent: string | null, source = "loop"): CheckpointRow {
  return { checkpoint_id: id, parent_id: parent, created_at: null, source, step: 0, run_id: null, next: [] };
}

/** Two turns: 1-3 and 4-6. The second was asked anew (7, 8) and answered anew (9). */
const TREE = new CheckpointTree([
  row("9", "7"),
  row("8", "7"),
  row("7", "3", "input"),
  row("6", "5"),
  row("5", "4"),
  row("4", "3", "input"),
  row("3", "2"),
  row("2", "1"),
  row("1", null, "input"),
]);

test("the newest checkpoint is the leaf that is shown", () => {
  assert.equal(TREE.newest(), "9");
  assert.deepEqual(TREE.path("9"), ["1", "2", "3", "7", "9"]);
});

test("forks name each line and the one that is shown", () => {
  assert.deepEqual(TREE.forks("9"), [
    { parent_id: "3", children: ["4", "7"], shown: 1 },
    { parent_id: "7", children: ["8", "9"], shown: 1 },
  ]);
  assert.deepEqual(TREE.forks("6"), [{ parent_id: "3", children: ["4", "7"], shown: 0 }]);
});

test("another line is shown at its newest leaf", () => {
  assert.equal(TREE.newestLeaf("4"), "6");
  assert.equal(TREE.newestLeaf("7"), "9");
});

test("an input is given again from before it, the first one from itself", () => {
  assert.equal(TREE.beforeInput("6"), "3");
  assert.equal(TREE.beforeInput("3"), "1");
  assert.equal(new CheckpointTree([row("1", null)]).beforeInput("1"), null);
});

test("a parent that was not loaded, or that is its own, ends the path", () => {
  assert.deepEqual(new CheckpointTree([row("2", "1"), row("3", "2")]).path("3"), ["2", "3"]);
  assert.deepEqual(new CheckpointTree([row("2", "2")]).path("2"), ["2"]);
  assert.deepEqual(new CheckpointTree([]).path("2"), []);
});

test("the first checkpoint with a message is found with few questions", async () => {
  let questions = 0;
  const items = Array.from({ length: 1000 }, (_, index) => index);
  const found = await firstReached(items, async (item) => {
    questions++;
    return item >= 700;
  });
  assert.equal(found, 700);
  assert.ok(questions <= 11);
  assert.equal(await firstReached(items, async () => false), null);
});
