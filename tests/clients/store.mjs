import assert from "node:assert/strict";
import { client } from "./judge.mjs";

assert.equal(await client.store.putItem(["users", "ada"], "tea", { sugar: 2 }, { ttl: 60 }), undefined);
await client.store.putItem(["users", "bob"], "tea", { sugar: 0 });

const item = await client.store.getItem(["users", "ada"], "tea", { refreshTtl: false });
assert.deepEqual([item.namespace, item.key, item.value], [["users", "ada"], "tea", { sugar: 2 }]);
assert.ok(Date.parse(item.createdAt) <= Date.parse(item.updatedAt));
assert.equal(await client.store.getItem(["users", "eve"], "tea"), null);

const { items } = await client.store.searchItems(["users"], { filter: { sugar: { $gt: 1 } } });
assert.deepEqual(items.map((one) => [one.namespace, one.value]), [[["users", "ada"], { sugar: 2 }]]);
const { namespaces } = await client.store.listNamespaces({ prefix: ["users"] });
assert.deepEqual(namespaces, [["users", "ada"], ["users", "bob"]]);

assert.equal(await client.store.deleteItem(["users", "ada"], "tea"), undefined);
assert.equal(await client.store.getItem(["users", "ada"], "tea"), null);
