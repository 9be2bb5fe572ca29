// Agents of A2A through the SDK of npm, in 1.0 and, by its layer for older peers, in 0.3.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Role, TaskState } from "@a2a-js/sdk";
import { ClientFactory, DefaultAgentCardResolver, JsonRpcTransportFactory } from "@a2a-js/sdk/client";

const url = process.argv[2];
const version = process.argv[4];
const tell = (words) => console.log(words);

/** A client of an agent that speaks the version which this script was started for. */
async function clientOf(agent) {
  const resolver = new DefaultAgentCardResolver();
  const card = await resolver.resolve(`${url}/a2a/${agent}/`);
  card.supportedInterfaces = card.supportedInterfaces.filter((each) => each.protocolVersion === version);
  const transports = [new JsonRpcTransportFactory({ legacyCompat: { enabled: true } })];
  const client = await new ClientFactory({ transports, cardResolver: resolver }).createFromAgentCard(card);
  assert.equal(client.protocolVersion.slice(0, 3), version);
  return client;
}

/** The request of a message. */
function said(text, more = {}, configuration = undefined) {
  const parts = [{ content: { $case: "text", value: text }, metadata: undefined, filename: "", mediaType: "" }];
  const message = {
    messageId: randomUUID(),
    role: Role.ROLE_USER,
    parts,
    contextId: "",
    taskId: "",
    metadata: undefined,
    extensions: [],
    referenceTaskIds: [],
    ...more,
  };
  return { message, configuration, metadata: undefined, tenant: "" };
}

const textOf = (parts) => parts.map((part) => part.content.value).join("");
const taskOf = (result) => result.task ?? result;

const echo = await clientOf("echo");
const first = taskOf(await echo.sendMessage(said("one")));
assert.equal(first.status.state, TaskState.TASK_STATE_COMPLETED);
assert.equal(textOf(first.artifacts[0].parts), "You said: one");

const second = taskOf(await echo.sendMessage(said("two", { contextId: first.contextId })));
assert.equal(textOf(second.artifacts[0].parts), "You said: one / two");
const read = await echo.getTask({ id: second.id, tenant: "", historyLength: undefined });
assert.deepEqual(read, second);

if (version === "1.0") {
  const listed = await echo.listTasks({ tenant: "", contextId: first.contextId, pageSize: 1, pageToken: "", status: 0 });
  assert.equal(listed.tasks[0].id, second.id);
  assert.equal(listed.totalSize, 2);
}

const events = [];
for await (const event of echo.sendMessageStream(said("three"))) events.push(event.payload);
assert.equal(events[0].$case, "task");
const pieces = events.filter((event) => event.$case === "artifactUpdate");
assert.equal(pieces.map((piece) => textOf(piece.value.artifact.parts)).join(""), "You said: three");
assert.deepEqual(pieces.map((piece) => piece.value.append), [false, true, true]);
assert.equal(events.at(-1).value.status.state, TaskState.TASK_STATE_COMPLETED);

const ask = await clientOf("ask");
const asked = taskOf(await ask.sendMessage(said("hello")));
assert.equal(asked.status.state, TaskState.TASK_STATE_INPUT_REQUIRED);
assert.equal(asked.status.message.parts[0].content.value, "Which one?");
const answered = taskOf(await ask.sendMessage(said("this", { taskId: asked.id })));
assert.equal(textOf(answered.artifacts[0].parts), "You chose 'this'.");
await assert.rejects(ask.sendMessage(said("more", { taskId: asked.id })));

const gated = await clientOf("gated");
let gone = null;
for await (const event of gated.sendMessageStream(said("hello"))) {
  gone = event.payload.value;
  break; // the client leaves
}
const missing = [];
for await (const event of gated.resubscribeTask({ id: gone.id, tenant: "" })) {
  if (missing.length === 0) tell("open the gate");
  missing.push(event.payload);
}
assert.equal(missing.at(-1).value.status.state, TaskState.TASK_STATE_COMPLETED);

const waiting = taskOf(await ask.sendMessage(said("hello")));
const config = { tenant: "", id: "mine", taskId: waiting.id, url: "https://hooks.example/a", token: "t" };
const made = await ask.createTaskPushNotificationConfig({ ...config, authentication: undefined });
assert.deepEqual([made.id, made.taskId, made.url, made.token], ["mine", waiting.id, config.url, "t"]);
const kept = await ask.getTaskPushNotificationConfig({ tenant: "", taskId: waiting.id, id: "mine" });
assert.equal(kept.url, config.url);
const all = { tenant: "", taskId: waiting.id, pageSize: 0, pageToken: "" };
assert.equal((await ask.listTaskPushNotificationConfig(all)).configs.length, 1);
await ask.deleteTaskPushNotificationConfig({ tenant: "", taskId: waiting.id, id: "mine" });
assert.equal((await ask.listTaskPushNotificationConfig(all)).configs.length, 0);
const canceled = await ask.cancelTask({ id: waiting.id, tenant: "", metadata: undefined });
assert.equal(canceled.status.state, TaskState.TASK_STATE_CANCELED);
await assert.rejects(ask.getTask({ id: randomUUID(), tenant: "" }));
