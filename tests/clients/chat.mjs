// A chat as agent-chat-ui has it: the class behind `useStream`, on a page of another origin.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { FetchStreamTransport, StreamOrchestrator } from "sdk-1x/ui";
import { pageFetch, requests, storage } from "./browser.mjs";
import { Client, url, wish } from "./judge.mjs";

const client = new Client({ apiUrl: url, apiKey: null, callerOptions: { fetch: pageFetch } });
const SUBMIT = {
  streamMode: ["values", "messages-tuple", "custom"],
  streamSubgraphs: true,
  streamResumable: true,
  onDisconnect: "continue",
};

const lookers = new Set();

/** A page that has just been loaded, on a thread or on none. */
function page(threadId) {
  const heard = { created: [], errors: [], custom: [] };
  const options = {
    fetchStateHistory: true,
    reconnectOnMount: () => storage,
    onCreated: (ids) => heard.created.push(ids),
    onError: (error) => heard.errors.push(error),
    onCustomEvent: (data) => {
      heard.custom.push(data);
      for (const look of lookers) look();
    },
  };
  const chat = new StreamOrchestrator(options, {
    getClient: () => client,
    getAssistantId: () => "chat",
    getMessagesKey: () => "messages",
  });
  if (threadId) chat.initThreadId(threadId);
  return { chat, heard };
}

/** Wait for what the page is to show. */
function shown(chat, isRight) {
  return new Promise((resolve) => {
    const look = () => {
      if (!isRight()) return;
      unsubscribe();
      lookers.delete(look);
      resolve();
    };
    const unsubscribe = chat.subscribe(look);
    lookers.add(look);
    look();
  });
}
const loaded = (chat) => shown(chat, () => chat.historyData.data !== undefined);
const texts = (chat) => chat.messages.map((message) => message.content[0].text ?? message.content);
const human = (text) => ({ id: randomUUID(), type: "human", content: [{ type: "text", text }] });
const say = (chat, text, more = {}) => chat.submit({ messages: [human(text)] }, { ...SUBMIT, ...more });
/** The requests since the last look, without ids. */
function asked() {
  return requests.splice(0).map(([method, path]) => `${method} ${path.replace(/[0-9a-f-]{36}/g, "…")}`);
}

// The start: is the server there, which threads has it?
assert.ok((await pageFetch(`${url}/info`)).ok);
assert.deepEqual(await client.threads.search({ metadata: { graph_id: "chat" }, limit: 100 }), []);
asked();

// The first message makes the thread; its run's id is in a header that the page may read.
let { chat, heard } = page();
await say(chat, "hello");
assert.deepEqual(texts(chat), ["hello", "you said hello"]);
assert.deepEqual(asked(), [
  "POST /threads",
  "POST /threads/…/runs/stream",
  "GET /threads/…/runs/…",
  "POST /threads/…/history",
]);
const thread = chat.threadId;
const [{ run_id: firstRun }] = heard.created;
assert.deepEqual(heard.created, [{ thread_id: thread, run_id: firstRun }]);
assert.equal((await client.runs.get(thread, firstRun)).status, "success");
assert.equal(storage.size, 0);

// The next message, word by word.
const growth = [];
const unsubscribe = chat.subscribe(() => growth.push(texts(chat).at(-1)));
await say(chat, "again");
unsubscribe();
assert.deepEqual(texts(chat), ["hello", "you said hello", "again", "you said again"]);
assert.ok(growth.includes("you said") || growth.includes("you "), growth.join("|"));

// The list of threads shows it by its first message.
const [listed] = await client.threads.search({ metadata: { graph_id: "chat" }, limit: 100 });
assert.deepEqual([listed.thread_id, listed.values.messages[0].content[0].text], [thread, "hello"]);

// An edit branches off before the message; the page shows either branch. Regeneration branches off before the answer.
const again = chat.messages[2];
const { firstSeenState: withAgain } = chat.getMessagesMetadata(again, 2);
await say(chat, "edited", { checkpoint: withAgain.parent_checkpoint });
assert.deepEqual(texts(chat), ["hello", "you said hello", "edited", "you said edited"]);
const { branch, branchOptions } = chat.getMessagesMetadata(chat.messages[2], 2);
assert.deepEqual([branchOptions.length, branchOptions.indexOf(branch)], [2, 1]);
chat.stream.clear();
chat.setBranch(branchOptions[0]);
assert.deepEqual(texts(chat), ["hello", "you said hello", "again", "you said again"]);
chat.setBranch(branch);
const answer = chat.messages[3];
const { firstSeenState: withAnswer } = chat.getMessagesMetadata(answer, 3);
await chat.submit(undefined, { ...SUBMIT, checkpoint: withAnswer.parent_checkpoint });
assert.deepEqual(texts(chat), ["hello", "you said hello", "edited", "you said edited"]);
assert.notEqual(chat.messages[3].id, answer.id);
assert.equal(chat.getMessagesMetadata(chat.messages[3], 3).branchOptions.length, 2);

// A reload in the middle of an answer: the page takes up the run that it had stored, from the first event.
asked();
const waiting = say(chat, "wait");
await shown(chat, () => heard.custom.length > 0);
await chat.stream.stop(chat.historyValues, {});
await waiting;
assert.equal(storage.getItem(`lg:stream:${thread}`), heard.created.at(-1).run_id);
({ chat, heard } = page(thread));
await loaded(chat);
assert.deepEqual(texts(chat).at(-1), "wait");
asked();
assert.equal(chat.tryReconnect(), true);
await shown(chat, () => heard.custom.length > 0);
wish("open the gate");
await shown(chat, () => !chat.isLoading && texts(chat).at(-1) === "you said wait");
assert.deepEqual(heard.custom, [{ progress: "waiting" }]);
assert.deepEqual(asked(), [
  "GET /threads/…/runs/…/stream?cancel_on_disconnect=0",
  "GET /threads/…/runs/…",
  "POST /threads/…/history",
]);
assert.equal(storage.size, 0);

// A question to the person; a reload shows it again; `input: {}` beside the command does not stand in its way.
await say(chat, "approve");
assert.deepEqual(chat.interrupt.value, { action: "delete" });
({ chat, heard } = page(thread));
await loaded(chat);
assert.deepEqual(chat.interrupt.value, { action: "delete" });
await chat.submit({}, { ...SUBMIT, command: { resume: { decisions: [{ type: "approve" }] } } });
assert.deepEqual([chat.interrupt, texts(chat).at(-1)], [undefined, "you said approve"]);

// An error, as it happens and after a reload; the thread goes on after it.
const { error: print } = console;
console.error = () => {};
await say(chat, "fail");
console.error = print;
assert.deepEqual(
  [chat.error.name, chat.error.message, heard.errors.length],
  ["ValueError", "the model failed", 1],
);
({ chat, heard } = page(thread));
await loaded(chat);
assert.match(String(chat.error), /ValueError\('the model failed'\)/);
await say(chat, "better");
assert.deepEqual([chat.error, texts(chat).at(-1)], [undefined, "you said better"]);

// A message while an answer is coming waits in the server's queue; stop ends what goes on.
asked();
const stopped = say(chat, "block");
await shown(chat, () => heard.custom.length > 0);
await say(chat, "later");
assert.equal(chat.queueSize, 1);
await chat.stop();
await stopped;
await shown(chat, () => !chat.isLoading && chat.queueSize === 0 && texts(chat).at(-1) === "you said later");
assert.deepEqual(texts(chat).slice(-3), ["block", "later", "you said later"]);
const sent = asked();
for (const request of ["POST /threads/…/runs", "POST /threads/…/runs/…/cancel?wait=0&action=interrupt"]) {
  assert.ok(sent.includes(request), sent.join("\n"));
}

// A chat without threads: useStream's own transport.
const transport = new FetchStreamTransport({ apiUrl: `${url}/runs/stream`, fetch: pageFetch });
const body = { assistant_id: "chat", input: { messages: [human("hello")] }, stream_mode: ["values"] };
const events = [];
for await (const { event, data } of await transport.stream(body)) events.push([event, data]);
assert.deepEqual(events.map(([event]) => event), ["metadata", "values", "values"]);
assert.equal(events[2][1].messages[1].content, "you said hello");

await client.threads.delete(thread);
assert.deepEqual(await client.threads.search(), []);
