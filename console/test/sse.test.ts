import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, type StreamItem } from "../src/sse.ts";

const WIRE = 'event: metadata\r\ndata: {"a":1}\r\nid: 7\r\n\r\n: heartbeat\r\n\r\ndata: x\ndata: y\n\nevent: empty\n\nretry: 1000\rdata:z\r\r';
const ITEMS: StreamItem[] = [
  { name: "metadata", data: '{"a":1}', id: "7" },
  { comment: "heartbeat" },
  { name: "message", data: "x\ny", id: "" },
  { name: "message", data: "z", id: "" },
];

test("events are the same wherever the stream is cut", () => {
  for (let size = 1; size <= WIRE.length; size++) {
    const parser = new EventParser();
    const items: StreamItem[] = [];
    for (let at = 0; at < WIRE.length; at += size) items.push(...parser.push(WIRE.slice(at, at + size)));
    assert.deepEqual(items, ITEMS, `cut every ${size} characters`);
    assert.equal(parser.retryMs, 1000);
  }
});

test("an event that has not ended is not told", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.push("event: values\ndata: {}\n"), []);
  assert.deepEqual(parser.push("\n"), [{ name: "values", data: "{}", id: "" }]);
});

test("other line separators do not end a line", () => {
  assert.deepEqual(new EventParser().push("data: a\u2028b\u0085c\n\n"), [{ name: "message", data: "a\u2028b\u0085c", id: "" }]);
});
