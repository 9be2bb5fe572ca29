// Prints the methods of each resource that the SDK has.
import { client } from "./judge.mjs";

const shared = new Set(["constructor", "prepareFetchOptions", "fetch", "streamWithRetry"]);
const found = [];
for (const resource of ["assistants", "threads", "runs", "crons", "store"]) {
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(client[resource]));
  found.push(...names.filter((name) => !shared.has(name)).map((name) => `${resource}.${name}`));
}
console.log(JSON.stringify(found));
