import assert from "node:assert/strict";
import { client, refused } from "./judge.mjs";

const made = await client.assistants.create({
  graphId: "parent",
  name: "Helper",
  context: { model: "small" },
  metadata: { team: 1 },
});
const id = made.assistant_id;
assert.deepEqual([made.version, made.config], [1, { configurable: { model: "small" } }]);

const changed = await client.assistants.update(id, { graphId: "parent", name: "Helper 2", metadata: { floor: 2 } });
assert.deepEqual([changed.version, changed.name, changed.metadata], [2, "Helper 2", { team: 1, floor: 2 }]);
assert.deepEqual(await client.assistants.get(id), changed);
assert.equal(await client.assistants.count({ metadata: { team: 1 } }), 1);

await client.assistants.create({ graphId: "chain", name: "Other", metadata: { team: 1 } });
const asked = { metadata: { team: 1 }, limit: 1, sortBy: "name", sortOrder: "asc", select: ["name"] };
assert.deepEqual(await client.assistants.search(asked), [{ name: "Helper 2" }]);
assert.deepEqual(await client.assistants.search({ ...asked, includePagination: true }), {
  assistants: [{ name: "Helper 2" }],
  next: "1",
});
assert.deepEqual(await client.assistants.search({ ...asked, offset: 1, includePagination: true }), {
  assistants: [{ name: "Other" }],
  next: null,
});

assert.deepEqual((await client.assistants.getVersions(id)).map((one) => one.version), [2, 1]);
assert.equal((await client.assistants.setLatest(id, 1)).name, "Helper");

const nodes = async (options) => (await client.assistants.getGraph(id, options)).nodes.map((node) => node.id);
assert.deepEqual(await nodes(), ["__start__", "child", "last", "__end__"]);
assert.ok((await nodes({ xray: true })).includes("child:inner"));
assert.equal((await client.assistants.getSchemas(id)).input_schema.properties.items.type, "array");
assert.deepEqual(Object.keys(await client.assistants.getSubgraphs(id)), ["child"]);
const child = await client.assistants.getSubgraphs(id, { namespace: "child", recurse: true });
assert.deepEqual(Object.keys(child), ["child"]);

assert.equal(await client.assistants.delete(id, { deleteThreads: true }), undefined);
await refused(404, client.assistants.get(id));
