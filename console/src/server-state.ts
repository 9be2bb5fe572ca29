/** What all views know of the server: its limits, its assistants, the caller, and that something has changed. */

import { signal } from "@preact/signals";
import { ApiError, events, get, needsSignIn, post, send, type Assistant, type Info, type Schemas } from "./api.ts";
import { pause, visible } from "./follow.ts";

export interface Caller {
  identity: string | null;
  display_name?: string | null;
  scopes: string[] | null;
}

export const info = signal<Info | null>(null);
export const caller = signal<Caller | null>(null);
export const assistants = signal<Assistant[]>([]);
/** Grows when threads or runs changed, here or elsewhere. Lists read themselves again. */
export const changes = signal(0);
/** False while the server does not answer. */
export const isReachable = signal(true);

export function changed(): void {
  changes.value++;
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
    isReachable.value = error instanceof ApiError;
  }
}

export async function readAll(): Promise<void> {
  await readInfo();
  try {
    caller.value = await get<Caller>("/me");
  } catch (error) {
    caller.value = null;
    if (error instanceof ApiError && error.status === 401) return;
  }
  assistants.value = await post<Assistant[]>("/assistants/search", { limit: 100, sort_by: "created_at", sort_order: "asc" }).catch(() => []);
  changed();
}

export async function signIn(credential: string): Promise<void> {
  await send("POST", "/console/session", { body: { credential } });
  needsSignIn.value = false;
  await readAll();
}

export async function signOut(): Promise<void> {
  await send("DELETE", "/console/session");
  location.reload();
}

const schemas = new Map<string, Promise<Schemas>>();

export function schemasOf(assistantId: string): Promise<Schemas> {
  const key = `${assistantId} ${assistants.value.find((each) => each.assistant_id === assistantId)?.version ?? ""}`;
  let found = schemas.get(key);
  if (!found) {
    found = get<Schemas>(`/assistants/${assistantId}/schemas`);
    schemas.set(key, found);
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
const LOCK = "threadkeep-changes";
const CHANNEL = "threadkeep-changes";

/** Keeps lists current. One tab of the browser holds the stream of changes and tells the others. */
export async function watchChanges(): Promise<void> {
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = () => changed();
  const forever = new AbortController().signal;
  const read = async () => {
    let hasStream = true;
    for (;;) {
      await visible(forever);
      if (needsSignIn.value || !hasStream) await poll();
      else {
        const outcome = await readChanges(channel);
        hasStream = outcome !== "missing";
        if (outcome === "failed") await poll();
      }
    }
  };
  if (navigator.locks) void pollWhileNotFirst(forever);
  if (navigator.locks) await navigator.locks.request(LOCK, read);
  else await read();
}

let isFirst = false;

/** The tab that holds the stream may be asleep. The others look for themselves now and then. */
async function pollWhileNotFirst(forever: AbortSignal): Promise<void> {
  for (;;) {
    await pause(POLL_MS * 4, forever);
    await visible(forever);
    if (!isFirst && !needsSignIn.value) changed();
  }
}

async function poll(): Promise<void> {
  isFirst = true;
  await pause(POLL_MS, new AbortController().signal);
  if (document.visibilityState === "visible" && !needsSignIn.value) {
    await readInfo();
    changed();
  }
}

/** Reads the stream of changes to its end. An older server has none. */
async function readChanges(channel: BroadcastChannel): Promise<"ended" | "failed" | "missing"> {
  isFirst = true;
  const abort = new AbortController();
  const hide = () => {
    if (document.visibilityState === "hidden") setTimeout(() => document.visibilityState === "hidden" && abort.abort(), 60_000);
  };
  document.addEventListener("visibilitychange", hide);
  let timer: ReturnType<typeof setTimeout> | null = null;
  try {
    for await (const items of events("/events", null, abort.signal)) {
      isReachable.value = true;
      if (!items.some((item) => "name" in item)) continue;
      timer ??= setTimeout(() => {
        timer = null;
        void readInfo();
        changed();
        channel.postMessage("");
      }, 150);
    }
    return "ended";
  } catch (error) {
    if (abort.signal.aborted) return "ended";
    if (!(error instanceof ApiError)) isReachable.value = false;
    return error instanceof ApiError && error.status === 404 ? "missing" : "failed";
  } finally {
    document.removeEventListener("visibilitychange", hide);
  }
}
