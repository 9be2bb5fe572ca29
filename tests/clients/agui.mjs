// AG-UI through `@ag-ui/client`, whose HttpAgent holds each event to its schema and verifies the order of all of them.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const url = process.argv[2];
const subject = process.argv[4];
const WEATHER = { name: "weather", description: "The weather.", parameters: { type: "object", properties: {} } };

// What the client would only warn about is a failure here.
console.warn = (...said) => {
  throw new Error(said.join(" "));
};

/** An agent, and the events that it gets. */
function agentOf(name, more = {}) {
  const agent = new HttpAgent({ url: `${url}/ag-ui/${name}`, ...more });
  const events = [];
  agent.subscribe({ onEvent: ({ event }) => void events.push(event) });
  return { agent, events, types: () => events.map((event) => event.type) };
}

function say(agent, content) {
  agent.addMessage({ id: randomUUID(), role: "user", content });
}

const SUBJECTS = {
  async text() {
    const { agent, types } = agentOf("echo", { threadId: "a chat of npm" });
    say(agent, "one");
    const { newMessages } = await agent.runAgent();
    assert.equal(newMessages[0].content, "You said: one");
    say(agent, "two");
    await agent.runAgent();
    assert.equal(agent.messages.at(-1).content, "You said: one / two");
    assert.equal(agent.messages.length, 4);
    assert.equal(types().filter((type) => type === "RUN_FINISHED").length, 2);
    agent.messages = agent.messages.slice(0, 3);
    await agent.runAgent();
    assert.equal(agent.messages.length, 4);
  },
  async tools() {
    const { agent, types } = agentOf("agent");
    say(agent, "add");
    await agent.runAgent();
    assert.deepEqual(agent.messages.map((message) => message.role), ["user", "assistant", "tool", "assistant"]);
    assert.equal(agent.messages[1].toolCalls[0].function.arguments, '{"a":2,"b":3}');
    assert.ok(types().includes("TOOL_CALL_RESULT"));
    say(agent, "weather");
    let pending;
    await agent.runAgent({ tools: [WEATHER] }, { onRunFinishedEvent: ({ pendingToolCallIds }) => (pending = pendingToolCallIds) });
    assert.deepEqual(pending, ["call-weather"]);
    agent.addMessage({ id: randomUUID(), role: "tool", toolCallId: pending[0], content: "sunny" });
    await agent.runAgent({ tools: [WEATHER] });
    assert.equal(agent.messages.at(-1).content, "It is sunny.");
  },
  async state() {
    const { agent, events } = agentOf("steps", { initialState: { count: 1 } });
    say(agent, "go");
    await agent.runAgent();
    assert.equal(agent.state.count, 2);
    assert.equal(agent.state.log.length, 4);
    agent.setState({ ...agent.state, count: 10 });
    await agent.runAgent();
    assert.equal(agent.state.count, 11);
    // The deltas alone lead to the same state as the last snapshot, or the client would have failed to apply them.
    assert.ok(events.some((event) => event.type === "STATE_DELTA"));
    assert.ok(events.some((event) => event.type === "CUSTOM" && event.name === "progress"));
  },
  async reasoning() {
    const { agent } = agentOf("think");
    say(agent, "hello");
    await agent.runAgent();
    assert.deepEqual(agent.messages.map((message) => message.role).sort(), ["assistant", "reasoning", "user"]);
    say(agent, "more");
    await agent.runAgent();
  },
  async interrupts() {
    const { agent, events } = agentOf("ask/two");
    say(agent, "hello");
    await agent.runAgent();
    assert.equal(agent.pendingInterrupts.length, 2);
    await assert.rejects(agent.runAgent());
    const answers = agent.pendingInterrupts.map(({ id }) => [id, { status: "resolved", payload: "yes" }]);
    const resume = buildResumeArray(agent.pendingInterrupts, Object.fromEntries(answers));
    await agent.runAgent({ resume });
    assert.equal(agent.pendingInterrupts.length, 0);
    assert.deepEqual(agent.messages.slice(1).map((message) => message.content).sort(), ["left yes", "right yes"]);
    assert.equal(events.filter((event) => event.type === "CUSTOM" && event.name === "on_interrupt").length, 2);
  },
  async failure() {
    const { agent, types } = agentOf("fail-late");
    say(agent, "hello");
    await agent.runAgent();
    assert.equal(types().at(-1), "RUN_ERROR");
    const { agent: none } = agentOf("none");
    await assert.rejects(none.runAgent(), (error) => error.status === 404);
  },
  async abort() {
    const { agent, types } = agentOf("gate");
    say(agent, "hello");
    const runId = randomUUID();
    const run = agent.runAgent({ runId }, { onTextMessageEndEvent: () => agent.abortRun() });
    await run.catch(() => undefined);
    assert.ok(types().includes("TEXT_MESSAGE_END"));
    const back = agentOf("gate", { threadId: agent.threadId, initialMessages: agent.messages });
    let told = false;
    await back.agent.runAgent(
      { runId },
      {
        onTextMessageEndEvent: () => {
          if (!told) console.log("open");
          told = true;
        },
      },
    );
    assert.equal(back.agent.messages.at(-1).content, "after the gate");
  },
};

await SUBJECTS[subject]();
