// `@ag-ui/langgraph`, by which CopilotKit talks to a LangGraph deployment: it uses the LangGraph API, not `/ag-ui`.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { LangGraphAgent } from "@ag-ui/langgraph";

const url = process.argv[2];
const subject = process.argv[4];

function agentOf(graphId) {
  const agent = new LangGraphAgent({ deploymentUrl: url, graphId, threadId: randomUUID() });
  const events = [];
  agent.subscribe({ onEvent: ({ event }) => void events.push(event) });
  return { agent, events, types: () => events.map((event) => event.type) };
}

function say(agent, content) {
  agent.addMessage({ id: randomUUID(), role: "user", content });
}

const SUBJECTS = {
  async text() {
    const { agent, types } = agentOf("echo");
    say(agent, "one");
    await agent.runAgent();
    assert.equal(agent.messages.at(-1).content, "You said: one");
    say(agent, "two");
    await agent.runAgent();
    assert.equal(agent.messages.at(-1).content, "You said: one / two");
    assert.equal(types().filter((type) => type === "RUN_FINISHED").length, 2);
    assert.ok(types().includes("TEXT_MESSAGE_CONTENT"));
  },
  async tools() {
    const { agent, types } = agentOf("agent");
    say(agent, "add");
    await agent.runAgent();
    assert.deepEqual(agent.messages.map(({ content }) => content || "call").sort(), ["5", "It is 5.", "add", "call"]);
    for (const type of ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT"])
      assert.ok(types().includes(type), type);
  },
  async interrupt() {
    const { agent, events } = agentOf("ask");
    say(agent, "hello");
    await agent.runAgent();
    assert.ok(events.some((event) => event.type === "CUSTOM" && event.name === "on_interrupt"));
    await agent.runAgent({ forwardedProps: { command: { resume: "blue" } } });
    assert.equal(agent.messages.at(-1).content, "You chose 'blue'.");
  },
};

await SUBJECTS[subject]();
