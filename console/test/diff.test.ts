import assert from "node:assert/strict";
import { test } from "node:test";
import { diffJson, diffWords } from "../src/diff.ts";

test("the smallest parts that differ are told by their paths", () => {
  assert.deepEqual(diffJson({ a: 1, b: { c: [1, 2] }, "d e": null }, { a: 1, b: { c: [1, 3, 4] } }), [
    { path: "b.c[1]", kind: "changed", before: 2, after: 3 },
    { path: "b.c[2]", kind: "added", after: 4 },
    { path: '["d e"]', kind: "removed", before: null },
  ]);
  assert.deepEqual(diffJson({ a: [1] }, { a: [1] }), []);
  assert.deepEqual(diffJson(1, "1"), [{ path: "", kind: "changed", before: 1, after: "1" }]);
});

test("messages are compared by id, not by place", () => {
  const before = [{ id: "x", content: "1" }, { id: "y", content: "2" }];
  const after = [{ id: "y", content: "2!" }, { id: "z", content: "3" }];
  assert.deepEqual(diffJson(before, after, "messages"), [
    { path: "messages[0]", kind: "removed", before: { id: "x", content: "1" } },
    { path: "messages[0].content", kind: "changed", before: "2", after: "2!" },
    { path: "messages[1]", kind: "added", after: { id: "z", content: "3" } },
  ]);
});

test("a large difference is cut", () => {
  assert.equal(diffJson([], Array.from({ length: 5000 }, (_, index) => index)).length, 500);
});

test("texts are compared word by word", () => {
  assert.deepEqual(diffWords("the quick fox", "the slow fox runs"), [
    { kind: "same", text: "the " },
    { kind: "removed", text: "quick" },
    { kind: "added", text: "slow" },
    { kind: "same", text: " fox" },
    { kind: "added", text: " runs" },
  ]);
  assert.deepEqual(diffWords("", ""), []);
  assert.equal(diffWords("a ".repeat(5000), "b").length, 2);
});
