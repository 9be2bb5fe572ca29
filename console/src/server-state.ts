/** What all views know of the server: its limits, its assistants, the caller, and that something has changed. */

import { signal } from "@preact/signals";
import { ApiError, events, get, needsSignIn, post, send, type Assistant, type Info, type Schemas } from "./api.ts";
import type { Me } from "./api-types.ts";
import { pause, visible } from "./follow.ts";
import type { ServerEvent } from "./sse.ts";

export const info = signal<Info | null>(null);
export const caller = signal<Me | null>(null);
export const assistants = signal<Assistant[]>([]);
/** Grows when threads or runs changed, here or elsewhere. Lists read themselves again. */
export const changes = signal(0);
/** The threads because of which `changes` grew last. Null: any may have changed. */
let touched: Set<string> | null = null;
/** False while the server does not answer. */
export const isReachable = signal(true);

/** Lists read themselves again at once, because of what was done here. */
export function changed(): void {
  touched = null;
  changes.value++;
}

/** Whether the last change may be one of this thread. */
export function isTouched(threadId: string): boolean {
  return touched === null || touched.has(threadId);
}

/** Whether the caller may do this: `threads.create` and such. Without scopes everybody may. */
export function may(permission: string): boolean {
  const scopes = caller.value?.scopes;
  if (!scopes) return true;
  const [resource] = permission.split(".");
  return scopes.includes(permission) || scopes.includes(`${resource}.*`) || scopes.includes("*") || scopes.includes(resource as string);
}

export async function readInfo(): Promise<void> {
  try {
    info.value = await get<Info>("/info");
    isReachable.value = true;
  } catch (error) {
    // Any answer shows that the server is there. Only a failed connection shows the opposite.
    isReachable.value = error instanceof ApiError;
  }
}

export async function readAll(): Promise<void> {
  await readInfo();
  try {
    caller.value = await get<Me>("/me");
  } catch (error) {
    caller.value = null;
    if (error instanceof ApiError && error.status === 401) return;
  }
  assistants.value = await post<Assistant[]>("/assistants/search", { limit: 100, sort_by: "created_at", sort_order: "asc" }).catch(() => []);
  changed();
}

export async function signIn(credential: string): Promise<void> {
  await send("POST", "/console/session", { body: { credential } });
  await readAll(); // before the views are shown, which depend on what the caller may do
  needsSignIn.value = false;
}

export async function signOut(): Promise<void> {
  await send("DELETE", "/console/session");
  location.reload();
}

const schemas = new Map<string, Promise<Schemas>>();

export function schemasOf(assistantId: string): Promise<Schemas> {
  // With the version, because a factory may build another graph for other settings.
  const key = `${assistantId} ${assistants.value.find((each) => each.assistant_id === assistantId)?.version ?? ""}`;
  let found = schemas.get(key);
  if (!found) {
    found = get<Schemas>(`/assistants/${assistantId}/schemas`);
    schemas.set(key, found);
    // A failure is not kept: the graph may be built at the next attempt.
    found.catch(() => schemas.delete(key));
  }
  return found;
}

/** Whether the state of the graph has messages, so that it can be shown as a chat. */
export function isChat(found: Schemas): boolean {
  const properties = (found.input_schema?.properties ?? found.state_schema?.properties ?? {}) as Record<string, unknown>;
  return "messages" in properties;
}

const POLL_MS = 4000;
const AGAIN_MS = 1000;
const HIDDEN_MS = 60_000;
/** Lists are read again at most once in this time, and less often while changes go on and on. */
const READ_EVERY_MS = 1000;
const READ_LATEST_MS = 5000;
/** Runs without a thread leave no row, so no event tells of the slots that they hold. */
const INFO_EVERY_MS = 10_000;
const LOCK = "threadkeep-changes";
const CHANNEL = "threadkeep-changes";

/** The threads that changed since lists were last read. Null: any may have. */
let collected: Set<string> | null = new Set();
let timer: ReturnType<typeof setTimeout> | null = null;
let readAt = 0;
let readEveryMs = READ_EVERY_MS;

let infoTimer: ReturnType<typeof setTimeout> | null = null;

/** Reads the load again, at most once a second. It costs the server next to nothing. */
function readInfoSoon(): void {
  infoTimer ??= setTimeout(() => {
    infoTimer = null;
    void readInfo();
  }, READ_EVERY_MS);
}

/** Has lists read again soon, because of these threads. Null: because of any. */
function collect(ids: string[] | null): void {
  if (ids === null) collected = null;
  else for (const id of ids) collected?.add(id);
  readInfoSoon();
  if (timer) return;
  const quietMs = Date.now() - readAt;
  // Doubled while changes go on, so that many tabs do not load a busy server.
  readEveryMs = quietMs > 2 * readEveryMs ? READ_EVERY_MS : Math.min(READ_LATEST_MS, readEveryMs * 2);
  timer = setTimeout(() => {
    timer = null;
    readAt = Date.now();
    touched = collected;
    collected = new Set();
    changes.value++;
  // At least 150 ms, because changes come in groups: a run changes its thread several times.
  }, Math.max(150, readEveryMs - quietMs));
}

/** Keeps lists current by the stream of changes. One tab of the browser that is seen holds it, and tells the others. */
export async function watchChanges(): Promise<void> {
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = (message) => collect(message.data as string[] | null);
  const tell = (ids: string[] | null) => {
    collect(ids);
    channel.postMessage(ids);
  };
  setInterval(() => {
    if (document.visibilityState === "visible" && !needsSignIn.value) void readInfo();
  }, INFO_EVERY_MS);
  const forever = new AbortController().signal;
  let hasStream = may("threads.search");
  const hold = async () => {
    // A tab that waited for the lock may have been hidden meanwhile.
    while (document.visibilityState === "visible") {
      if (needsSignIn.value || !hasStream) await poll(POLL_MS);
      else {
        const outcome = await readChanges(tell);
        hasStream = outcome !== "missing";
        if (outcome === "failed") await poll(AGAIN_MS);
      }
    }
  };
  for (;;) {
    await visible(forever);
    // One tab holds the stream and tells the others, because a browser has six connections for all tabs.
    if (navigator.locks) await navigator.locks.request(LOCK, hold);
    else await hold();
  }
}

async function poll(milliseconds: number): Promise<void> {
  await pause(milliseconds, new AbortController().signal);
  if (document.visibilityState === "visible" && !needsSignIn.value) {
    await readInfo();
    if (isReachable.value) collect(null);
  }
}

let lastEventId: string | null = null;

/** Reads the stream of changes until it ends, or the tab has been hidden for a minute. An older server has none. */
async function readChanges(tell: (ids: string[] | null) => void): Promise<"ended" | "failed" | "missing"> {
  const abort = new AbortController();
  let hiding: ReturnType<typeof setTimeout> | undefined;
  const look = () => {
    clearTimeout(hiding);
    if (document.visibilityState === "hidden") hiding = setTimeout(() => abort.abort(), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  try {
    for await (const items of events("/events", lastEventId, abort.signal)) {
      isReachable.value = true;
      const told = items.filter((item): item is ServerEvent => "name" in item);
      lastEventId = told.findLast((event) => event.id !== "")?.id ?? lastEventId;
      // Some changes were not kept, so any thread may have changed.
      if (told.some((event) => event.name === "gap")) tell(null);
      else if (told.length > 0) tell(told.map((event) => (JSON.parse(event.data) as { thread_id: string }).thread_id));
    }
    return abort.signal.aborted ? "ended" : "failed";
  } catch (error) {
    if (abort.signal.aborted) return "ended";
    if (!(error instanceof ApiError)) isReachable.value = false;
    return error instanceof ApiError && [403, 404].includes(error.status) ? "missing" : "failed";
  } finally {
    clearTimeout(hiding);
    document.removeEventListener("visibilitychange", look);
  }
}
