// `client.threads.stream`, over SSE and over a WebSocket: a thread is watched, whatever runs on it.
import assert from "node:assert/strict";
import { client, gather, until, wish } from "./judge.mjs";

const WORDS = "one two three four";
const said = (content) => ({ messages: [{ type: "human", content }] });
const [transport, subject] = process.argv.slice(4);
const open = (assistantId, options = {}) => client.threads.stream({ assistantId, transport, ...options });

/** The items of an async iterable. */
async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}
/** Events of a subscription, up to the end of a run. */
async function untilEnd(events, end = "completed") {
  const found = [];
  for await (const event of events) {
    found.push(event);
    const { namespace, data } = event.params;
    if (event.method === "lifecycle" && namespace.length === 0 && data.event === end) return found;
  }
  return found;
}

/** Whether a client asks here for events of `channel`. */
const asksFor = (channel, { channels }) => channels.includes(channel);

/** Options that open the gate when the server has confirmed a subscription to `channel`: a run that waits there is watched. */
function gatedBy(channel) {
  const watched = () => setTimeout(() => wish("open the gate"), 50); // the SDK lets go of the stream that it had before
  const fetchIt = async (input, init) => {
    const answer = await fetch(input, init);
    if (String(input).endsWith("/stream/events") && asksFor(channel, JSON.parse(init.body))) watched();
    return answer;
  };
  const webSocketFactory = (address) => telling(new WebSocket(address), channel, watched);
  return { fetch: fetchIt, webSocketFactory };
}

/** A socket that tells when a subscription to `channel` is confirmed on it. */
function telling(socket, channel, confirmed) {
  const asked = new Set();
  const send = socket.send.bind(socket);
  socket.send = (text) => {
    const { id, method, params } = JSON.parse(text);
    if (method === "subscription.subscribe" && asksFor(channel, params)) asked.add(id);
    send(text);
  };
  socket.addEventListener("message", ({ data }) => {
    const { type, id } = JSON.parse(data);
    if (type === "success" && asked.has(id)) confirmed();
  });
  return socket;
}

/** The thread's values, when they are what the answer makes of them: `thread.output` holds those of the question. */
const become = (thread, isRight) => until(() => client.threads.getState(thread.threadId), ({ values }) => isRight(values));

// Messages token by token, values, the output.
if (subject === "messages") {
  const thread = open("agent");
  const texts = (async () => {
    for await (const message of thread.messages) return await all(message.text);
  })();
  const values = all(thread.values);
  await thread.run.start({ input: said("hello") });
  assert.deepEqual(await texts, ["one ", "two ", "three ", "four"]);
  assert.equal((await thread.output).messages.at(-1).content, WORDS);
  assert.equal((await values).at(-1).messages.at(-1).content, WORDS);
  await thread.close();
}

// Updates, custom, tasks and checkpoints, on which the reference is silent; a custom channel by its name.
if (subject === "channels") {
  const thread = open("telling");
  const told = thread.extensions.progress;
  await thread.run.start({ input: { text: "wait, it is" } });
  const subscription = await thread.subscribe(["updates", "custom", "tasks", "checkpoints", "lifecycle"]);
  wish("open the gate");
  const events = await untilEnd(subscription);
  const data = (method) => events.filter((event) => event.method === method).map((event) => event.params.data);
  assert.deepEqual(data("updates"), [{ node: "tell", values: { text: "wait, it is told" } }]);
  assert.deepEqual(data("custom"), [{ name: "progress", payload: { done: 1 } }, { payload: "plain" }]);
  assert.deepEqual(data("tasks").map(({ name }) => name), ["tell", "tell"]);
  assert.deepEqual(data("checkpoints").map(({ step }) => step), [-1, 0, 1]);
  assert.deepEqual(data("checkpoints")[1].parent_id, data("checkpoints")[0].id);
  assert.deepEqual(await told, { done: 1 });
  await thread.close();
}

// A tool call: its arguments in the message, its run on `tools`.
if (subject === "tools") {
  const thread = open("agent", gatedBy("tools"));
  await thread.run.start({ input: said("a sum, but wait") });
  const calls = all(thread.toolCalls);
  const [call] = await calls;
  assert.deepEqual([call.name, call.input], ["add", { a: 2, b: 3 }]);
  assert.equal(String((await call.output).content ?? (await call.output)), "5");
  await thread.close();
}

// A subgraph, with its messages.
if (subject === "subgraphs") {
  const thread = open("crew");
  const found = (async () => {
    for await (const child of thread.subgraphs) {
      for await (const message of child.messages) {
        wish("open the gate");
        return [child.name ?? child.namespace[0].split(":")[0], await message.text];
      }
    }
  })();
  await thread.run.start({ input: said("wait") });
  assert.deepEqual(await found, ["agent", WORDS]);
  await thread.close();
}

// A question, and its answer.
if (subject === "question") {
  const thread = open("asking_text");
  await thread.run.start({ input: { text: "it is" } });
  await untilEnd(await thread.subscribe(["lifecycle", "input"]), "interrupted");
  const [{ interruptId, payload, namespace }] = thread.interrupts;
  assert.deepEqual(payload, { question: "who?" });
  await thread.respondInput({ interrupt_id: interruptId, namespace, response: "Ada" });
  await become(thread, ({ text }) => text === "it is told Ada");
  await thread.close();
}

// Two questions, answered at once.
if (subject === "questions") {
  const thread = open("two_questions");
  await thread.run.start({ input: { items: [] } });
  await untilEnd(await thread.subscribe(["lifecycle", "input"]), "interrupted");
  assert.equal(thread.interrupts.length, 2);
  const responses = thread.interrupts.map(({ interruptId, namespace, payload }) => ({
    interrupt_id: interruptId,
    namespace,
    response: payload.question,
  }));
  await thread.respondInput({ responses });
  await become(thread, ({ items }) => items.toSorted().join() === "and which?,which?");
  await thread.close();
}

// A run of v1 watched here, and a run of here joined there: the same tokens.
if (subject === "v1") {
  const { thread_id } = await client.threads.create();
  const thread = client.threads.stream(thread_id, { assistantId: "agent", transport });
  const watched = untilEnd(await thread.subscribe(["messages", "lifecycle"]));
  const streamMode = ["messages-tuple"];
  const parts = await gather(client.runs.stream(thread_id, "agent", { input: said("hello"), streamMode }));
  const v1 = (found) => found.filter(([event]) => event === "messages").map(([, [chunk]]) => chunk.content).join("");
  const v2 = (found) => found.map(({ params }) => params.data.delta?.text ?? "").join("");
  assert.equal(v1(parts), WORDS);
  assert.equal(v2(await watched), WORDS);
  await thread.close();

  const other = open("agent");
  const { run_id } = await other.run.start({ input: said("hello") });
  const joined = await gather(client.runs.joinStream(other.threadId, run_id, { lastEventId: "-1", streamMode }));
  assert.equal(v1(joined), WORDS);
  await other.close();
}

// Two watchers; one of them loses its line in the middle of a message, and misses nothing and has nothing twice.
if (subject === "watchers") {
  let cuts = 1;
  const cutting = async (input, init) => {
    if (cuts === 0 && String(input).endsWith("/stream/events")) wish("open the gate");
    const answer = await fetch(input, init);
    if (!String(input).endsWith("/stream/events") || !asksFor("messages", JSON.parse(init.body)) || cuts-- <= 0) return answer;
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        text += done ? "" : decoder.decode(value);
        if (done) return controller.close();
        controller.enqueue(value);
        if (text.includes('"two "')) {
          await reader.cancel();
          controller.error(new TypeError("the line is cut"));
        }
      },
    });
    return new Response(body, { status: answer.status, headers: answer.headers });
  };
  const webSocketFactory = (address) => {
    const socket = new WebSocket(address);
    if (cuts-- <= 0) return telling(socket, "messages", () => wish("open the gate"));
    socket.addEventListener("message", ({ data }) => {
      if (data.includes('"two "')) socket.close();
    });
    return socket;
  };
  const thread = open("agent", { fetch: cutting, webSocketFactory, reconnectDelayMs: () => 10 });
  await thread.run.start({ input: said("wait") });
  const channels = ["messages", "values", "lifecycle"];
  const subscription = await thread.subscribe(channels);
  const other = client.threads.stream(thread.threadId, { assistantId: "agent", transport });
  const [mine, theirs] = await Promise.all([
    untilEnd(subscription),
    other.subscribe(channels).then((events) => untilEnd(events)),
  ]);
  assert.equal(cuts < 1, true);
  assert.deepEqual(mine.map(({ event_id }) => event_id), theirs.map(({ event_id }) => event_id));
  assert.deepEqual(mine.map(({ seq }) => seq), theirs.map(({ seq }) => seq));
  assert.equal(mine.map(({ params }) => params.data.delta?.text ?? "").join(""), WORDS);
  await thread.close();
  await other.close();
}
