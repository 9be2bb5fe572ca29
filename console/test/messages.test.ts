import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageCollector, isMessageList, picturesOf, reasoningOf, textOf } from "../src/messages.ts";

test("chunks of a message are put together, and a whole message takes their place", () => {
  const collector = new MessageCollector();
  collector.add({ id: "1", type: "AIMessageChunk", content: "Hel" });
  collector.add({ id: "1", type: "AIMessageChunk", content: "lo" });
  collector.add({ id: "2", type: "tool", content: "391", tool_call_id: "c" });
  assert.deepEqual(collector.list().map((each) => [each.type, each.content]), [["ai", "Hello"], ["tool", "391"]]);
  collector.add({ id: "1", type: "ai", content: "Hello!" });
  assert.deepEqual(collector.list().map((each) => each.content), ["Hello!", "391"]);
});

test("arguments of a tool call are text until they are complete", () => {
  const collector = new MessageCollector();
  collector.add({ id: "1", type: "AIMessageChunk", content: "", tool_call_chunks: [{ index: 0, id: "c", name: "add", args: '{"a"' }] });
  assert.deepEqual(collector.list()[0]?.tool_calls, [{ id: "c", name: "add", args: '{"a"' }]);
  collector.add({ id: "1", type: "AIMessageChunk", content: "", tool_call_chunks: [{ index: 0, id: null, name: null, args: ": 2}" }] });
  assert.deepEqual(collector.list()[0]?.tool_calls, [{ id: "c", name: "add", args: { a: 2 } }]);
});

test("blocks of one index are joined, and reasoning is kept apart from text", () => {
  const collector = new MessageCollector();
  for (const block of [
    { type: "reasoning", reasoning: "so, ", index: 0 },
    { type: "reasoning", reasoning: "well", index: 0 },
    { type: "text", text: "here ", index: 1 },
    { type: "text", text: "it is", index: 1 },
  ]) {
    collector.add({ id: "1", type: "AIMessageChunk", content: [block] });
  }
  const message = collector.list()[0]!;
  assert.equal(textOf(message.content), "here it is");
  assert.equal(reasoningOf(message), "so, well");
});

test("only pictures in the message itself are shown", () => {
  assert.deepEqual(
    picturesOf([
      { type: "image", base64: "AAAA", mime_type: "image/png" },
      { type: "image_url", image_url: { url: "https://example.com/x.png" } },
      { type: "image_url", image_url: { url: "data:image/svg+xml;base64,AAAA" } },
      { type: "image", base64: "AAAA", mime_type: "image/svg+xml" },
      { type: "image_url", image_url: { url: "javascript:alert(1)" } },
    ]),
    { data: ["data:image/png;base64,AAAA"], links: ["https://example.com/x.png"] },
  );
});

test("what is no list of messages is not taken for one", () => {
  assert.equal(isMessageList([{ type: "human", content: "x" }]), true);
  assert.equal(isMessageList(["x"]), false);
  assert.equal(isMessageList("x"), false);
});
