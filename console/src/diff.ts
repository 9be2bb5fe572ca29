/** What changed between two JSON values, and between two texts. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Change {
  /** Such as `messages[3].content`. The empty path is the whole value. */
  path: string;
  kind: "added" | "removed" | "changed";
  before?: Json;
  after?: Json;
}

const MAX_CHANGES = 500;

/** The smallest parts that differ, at most 500 of them. Lists whose items have ids are compared by id. */
export function diffJson(before: Json | undefined, after: Json | undefined, path = "", changes: Change[] = []): Change[] {
  if (changes.length >= MAX_CHANGES || before === after) return changes;
  if (before === undefined) changes.push({ path, kind: "added", after: after as Json });
  else if (after === undefined) changes.push({ path, kind: "removed", before });
  else if (Array.isArray(before) && Array.isArray(after)) diffLists(before, after, path, changes);
  else if (isObject(before) && isObject(after)) diffObjects(before, after, path, changes);
  // Also for values of two types, such as a list that became an object.
  else if (JSON.stringify(before) !== JSON.stringify(after)) changes.push({ path, kind: "changed", before, after });
  return changes;
}

function isObject(value: Json): value is { [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function diffObjects(before: { [key: string]: Json }, after: { [key: string]: Json }, path: string, changes: Change[]): void {
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    // A key with a period would look like two.
    const part = /^[A-Za-z_]\w*$/.test(key) ? (path ? `.${key}` : key) : `[${JSON.stringify(key)}]`;
    diffJson(before[key], after[key], path + part, changes);
  }
}

function idsOf(list: Json[]): string[] | null {
  const ids = list.map((item) => (isObject(item) && typeof item.id === "string" ? item.id : null));
  // One item without an id, or with another's, and the list is compared by position.
  return ids.includes(null) || new Set(ids).size !== ids.length ? null : (ids as string[]);
}

function diffLists(before: Json[], after: Json[], path: string, changes: Change[]): void {
  const oldIds = idsOf(before);
  const newIds = idsOf(after);
  if (oldIds === null || newIds === null) {
    for (let index = 0; index < Math.max(before.length, after.length); index++) {
      diffJson(before[index], after[index], `${path}[${index}]`, changes);
    }
    return;
  }
  oldIds.forEach((id, index) => {
    if (!newIds.includes(id)) diffJson(before[index], undefined, `${path}[${index}]`, changes);
  });
  newIds.forEach((id, index) => {
    const old = oldIds.indexOf(id);
    diffJson(old === -1 ? undefined : before[old], after[index], `${path}[${index}]`, changes);
  });
}

export interface Words {
  kind: "same" | "added" | "removed";
  text: string;
}

const MAX_WORDS = 2000;

/** Two texts word by word. Texts of over 2,000 words are compared as wholes: the table would be too large. */
export function diffWords(before: string, after: string): Words[] {
  const a = before.match(/\s+|[^\s]+/g) ?? [];
  const b = after.match(/\s+|[^\s]+/g) ?? [];
  if (before === after) return before ? [{ kind: "same", text: before }] : [];
  if (a.length > MAX_WORDS || b.length > MAX_WORDS) {
    return join([{ kind: "removed", text: before }, { kind: "added", text: after }]);
  }
  return join(walk(a, b, commonLengths(a, b)));
}

/** For each pair of positions, how long the longest common rest is, in one flat table. */
function commonLengths(a: string[], b: string[]): Uint16Array {
  const width = b.length + 1;
  // Two bytes are enough for 2,000 words, and one flat table is far smaller than lists of lists.
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        a[i] === b[j]
          ? (lengths[(i + 1) * width + j + 1] as number) + 1
          : Math.max(lengths[(i + 1) * width + j] as number, lengths[i * width + j + 1] as number);
    }
  }
  return lengths;
}

function walk(a: string[], b: string[], lengths: Uint16Array): Words[] {
  const width = b.length + 1;
  const words: Words[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      words.push({ kind: "same", text: a[i++] as string });
      j++;
    } else if (i < a.length && (j === b.length || (lengths[(i + 1) * width + j] as number) >= (lengths[i * width + j + 1] as number))) {
      words.push({ kind: "removed", text: a[i++] as string });
    } else {
      words.push({ kind: "added", text: b[j++] as string });
    }
  }
  return words;
}

function join(words: Words[]): Words[] {
  const joined: Words[] = [];
  for (const word of words) {
    const last = joined.at(-1);
    if (word.text === "") continue;
    if (last && last.kind === word.kind) last.text += word.text;
    else joined.push({ ...word });
  }
  return joined;
}
