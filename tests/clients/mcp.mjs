// The tools of the server through the SDK 1.x, which most hosts have, and through the client 2.x in both eras.
import assert from "node:assert/strict";
import { Client as Client2, StreamableHTTPClientTransport as Transport2 } from "@modelcontextprotocol/client";
import { Client as Client1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as Transport1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const url = new URL(`${process.argv[2]}/mcp`);
const subject = process.argv[4];
const info = { name: "tests", version: "1" };

const SUBJECTS = {
  async sdk1() {
    const client = new Client1(info);
    await client.connect(new Transport1(url));
    await check(client, (params, options) => client.callTool(params, undefined, options));
  },
  async client2_legacy() {
    const client = new Client2(info);
    await client.connect(new Transport2(url));
    await check(client, (params, options) => client.callTool(params, options));
  },
  async client2_auto() {
    const client = new Client2(info, { versionNegotiation: { mode: "auto" }, capabilities: { elicitation: { form: {} } } });
    const asked = [];
    client.setRequestHandler("elicitation/create", async ({ params }) => {
      asked.push(params.message);
      return { action: "accept", content: { answer: "Ada" } };
    });
    await client.connect(new Transport2(url));
    await check(client, (params, options) => client.callTool(params, options), { elicits: true });
    const named = await client.callTool({ name: "name", arguments: {} });
    assert.deepEqual(asked, ["What is your name?"]);
    assert.deepEqual(named.structuredContent.answers, ["Ada"]);
  },
};

/** What every client sees. The SDKs hold each result against the output schema of its tool. */
async function check(client, call, { elicits = false } = {}) {
  const { tools } = await client.listTools();
  assert.deepEqual(tools.slice(0, 3).map((tool) => tool.name), ["echo", "report", "count"]);
  const first = await call({ name: "echo", arguments: { messages: "one" } });
  assert.equal(first.content[0].text, "You said: one");
  const { thread_id } = first.structuredContent;
  const second = await call({ name: "echo", arguments: { messages: "two", thread_id } });
  assert.equal(second.content[0].text, "You said: one / two");
  const report = await call({ name: "report", arguments: { topic: "tea", words: 2 } });
  assert.equal(report.structuredContent.report, "tea tea");
  const steps = [];
  const onprogress = ({ progress, message }) => steps.push([progress, message]);
  await call({ name: "told", arguments: { name: "x" } }, { onprogress, resetTimeoutOnProgress: true });
  assert.deepEqual(steps, [[0.25, "a"], [0.5, "b"], [1, "c"]]);
  const failed = await call({ name: "fail", arguments: { name: "x" } });
  assert.equal(failed.isError, true);
  if (elicits) return;
  const asked = await call({ name: "name", arguments: {} });
  assert.ok(asked.content[0].text.includes("What is your name?"));
  const answer = { thread_id: asked.structuredContent.thread_id, resume: "Ada" };
  assert.deepEqual((await call({ name: "name", arguments: answer })).structuredContent.answers, ["Ada"]);
}

await SUBJECTS[subject]();
process.exit(0);
