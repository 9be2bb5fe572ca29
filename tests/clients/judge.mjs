// What each script here begins with: a client of the line of the SDK that it was started for, and words for what
// is expected of the server. A script that ends with status 0 found all as it should be.
import assert from "node:assert/strict";

const [apiUrl, line] = process.argv.slice(2);

export const url = apiUrl;
export const is1x = line === "1x";
export const { Client } = await import(`sdk-${line}`);
export const client = new Client({ apiUrl, apiKey: null });
export const NOBODY = "00000000-0000-4000-8000-000000000000";

/** All that a stream brings, as pairs of event and data. */
export async function gather(parts) {
  const found = [];
  for await (const { event, data } of parts) found.push([event, data]);
  return found;
}

/** The text of a refusal, which must have `status`. */
export async function refused(status, asked) {
  const error = await asked.then(
    () => assert.fail(`answered, where ${status} was expected`),
    (raised) => raised,
  );
  assert.equal(error.status, status, error.stack);
  return JSON.parse(error.text).detail;
}

/** Ask until the answer is as it should be: for what the server does after it has answered. */
export async function until(ask, isRight) {
  for (;;) if (isRight(await ask())) return;
}

/** Ask the test, which alone can do it: "open the gate", "cut the line". */
export const wish = (words) => console.log(words);
