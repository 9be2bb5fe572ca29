// The OpenAI API through OpenAI's own SDK and through the AI SDK, which checks every item and event by a strict schema.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const url = `${process.argv[2]}/v1`;
const subject = process.argv[4];
const client = new OpenAI({ baseURL: url, apiKey: "any", maxRetries: 0 });
const responses = createOpenAI({ baseURL: url, apiKey: "any" });
const compatible = createOpenAICompatible({ name: "threadkeep", baseURL: url, apiKey: "any", includeUsage: true });
const weather = tool({
  description: "The weather.",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  execute: async ({ city }) => `sunny in ${city}`,
});

/** The text of a stream of the AI SDK, without a failure on its way. */
async function textOf(stream) {
  let text = "";
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return text;
}

const SUBJECTS = {
  async sdk() {
    const messages = [{ role: "user", content: "hello" }];
    const answer = await client.chat.completions.create({ model: "echo", messages });
    assert.equal(answer.choices[0].message.content, "You said: hello");
    const stream = client.chat.completions.stream({ model: "agent", messages });
    assert.equal(await stream.finalContent(), "It is 5.");
    assert.ok((await client.models.list()).data.some((model) => model.id === "echo"));
    const response = await client.responses.create({ model: "echo", input: "hello" });
    assert.equal(response.output_text, "You said: hello");
    await assert.rejects(client.chat.completions.create({ model: "none", messages }), (error) => {
      assert.equal(error.status, 404);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  },
  async background() {
    const stream = client.responses.stream({ model: "agent", input: "hello", background: true, stream: true });
    const events = [];
    for await (const event of stream) events.push(event);
    const { id } = events[0].response;
    const rest = [];
    for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: 4 })) rest.push(event);
    assert.deepEqual(rest, events.slice(5));
    const again = await client.responses.stream({ response_id: id, starting_after: 4 }).finalResponse();
    assert.equal(again.output_text, "It is 5.");
  },
  async conversation() {
    const conversation = await client.conversations.create({ items: [{ role: "user", content: "one" }] });
    const asked = { model: "echo", input: "two", conversation: conversation.id };
    assert.equal((await client.responses.create(asked)).output_text, "You said: one / two");
    const texts = [];
    for await (const item of client.conversations.items.list(conversation.id, { order: "asc", limit: 1 }))
      texts.push(item.content[0].text);
    assert.deepEqual(texts, ["one", "two", "You said: one / two"]);
  },
  async ai() {
    for (const model of ["echo", "agent", "think", "plain", "refuse", "cut", "twice", "silent", "ask"]) {
      const prompt = "hello";
      const waited = await generateText({ model: responses(model), prompt });
      const text = await textOf(streamText({ model: responses(model), prompt }));
      assert.equal(text, waited.text, model);
      const second = [{ role: "user", content: prompt }, ...waited.response.messages, { role: "user", content: "more" }];
      await generateText({ model: responses("echo"), messages: second });
    }
    const { text } = await generateText({
      model: responses("agent"),
      prompt: "weather?",
      tools: { weather },
      stopWhen: stepCountIs(3),
    });
    assert.equal(text, "It is sunny in Oslo.");
    await assert.rejects(generateText({ model: responses("fail"), prompt: "hello", maxRetries: 0 }), /the node failed/);
  },
  async compatible() {
    for (const model of ["echo", "agent", "think", "plain", "cut", "twice"]) {
      const waited = await generateText({ model: compatible(model), prompt: "hello" });
      const streamed = streamText({ model: compatible(model), prompt: "hello" });
      assert.equal(await textOf(streamed), waited.text, model);
      assert.deepEqual((await streamed.usage).totalTokens, waited.usage.totalTokens);
    }
    const thought = await generateText({ model: compatible("think"), prompt: "hello" });
    assert.equal(thought.reasoningText, "so, well");
    const streamed = streamText({
      model: compatible("agent"),
      prompt: "weather?",
      tools: { weather },
      stopWhen: stepCountIs(3),
    });
    assert.equal(await textOf(streamed), "It is sunny in Oslo.");
    const failed = generateText({ model: compatible("fail"), prompt: "hello", maxRetries: 0 });
    await assert.rejects(failed, /the node failed/);
  },
};
await SUBJECTS[subject]();
