/** Requests to the server that serves this page. Nothing else is ever called. */

import { signal } from "@preact/signals";
import type * as types from "./api-types.ts";
import { EventParser, type StreamItem } from "./sse.ts";

// The shortest match: a thread's address may have the word once more.
const CONSOLE = /^(.*?)\/console(?:\/|$)/;

/** The path before `/console`: empty, or the prefix at which the server is mounted. */
export const root = CONSOLE.exec(location.pathname)?.[1] ?? "";

/** True once a request was refused for want of a credential. */
export const needsSignIn = signal(false);

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly requestId: string | null,
    /** Seconds after which the server wants to be asked again, or null. */
    readonly retryAfterS: number | null,
  ) {
    super(detail);
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  let problem: { detail?: unknown; code?: unknown } = {};
  try {
    problem = JSON.parse(text) as typeof problem;
  } catch {
    // A proxy in front of the server answers with HTML.
    problem = { detail: text.slice(0, 500) };
  }
  const retryAfter = Number(response.headers.get("retry-after") ?? "");
  return new ApiError(
    response.status,
    typeof problem.code === "string" ? problem.code : "",
    typeof problem.detail === "string" && problem.detail ? problem.detail : `HTTP ${response.status}`,
    response.headers.get("x-request-id"),
    retryAfter > 0 ? retryAfter : null,
  );
}

/** A request of this page that changed something. */
export interface SentRequest {
  number: number;
  at: string;
  method: string;
  path: string;
  body: unknown;
}

const MAX_SENT = 50;
/** Posts that only read. */
const READS = /\/(search|count|history|versions|namespaces)$/;
/** The latest requests that changed something, the newest first. They are forgotten with the page. */
export const sent = signal<SentRequest[]>([]);

function remember(method: string, path: string, body: unknown): void {
  // `/console/session` has the credential in its body, which must not be shown again.
  if (method === "GET" || READS.test(path) || path.startsWith("/console/")) return;
  const number = (sent.value[0]?.number ?? 0) + 1;
  sent.value = [{ number, at: new Date().toISOString(), method, path: root + path, body }, ...sent.value.slice(0, MAX_SENT - 1)];
}

export interface RequestOptions {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** The request outlives the page. */
  keepalive?: boolean;
}

/** The response if its status is a success. Else ApiError, or TypeError if the server does not answer. */
export async function send(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers };
  remember(method, path, options.body);
  if (options.body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(root + path, {
    method,
    headers,
    body: options.body === undefined ? null : JSON.stringify(options.body),
    signal: options.signal ?? null,
    keepalive: options.keepalive ?? false,
    credentials: "same-origin",
    cache: "no-store",
  });
  if (response.ok) return response;
  const error = await errorOf(response);
  // Set here for all views: a session may end at any request.
  if (error.status === 401) needsSignIn.value = true;
  throw error;
}

async function json<T>(response: Response): Promise<T> {
  const text = await response.text();
  // 204 has no body. A response that waited for a run begins with line breaks.
  return (text.trim() === "" ? null : JSON.parse(text)) as T;
}

export async function get<T>(path: string, abort?: AbortSignal): Promise<T> {
  return json<T>(await send("GET", path, abort ? { signal: abort } : {}));
}

export async function post<T>(path: string, body: unknown, abort?: AbortSignal): Promise<T> {
  return json<T>(await send("POST", path, abort ? { body, signal: abort } : { body }));
}

export interface Page<T> {
  items: T[];
  /** How many match in all. */
  total: number;
  /** Where the next page begins: an offset, or the id of a checkpoint. Null after the last page. */
  next: string | null;
}

export async function page<T>(path: string, body: unknown, abort?: AbortSignal): Promise<Page<T>> {
  const response = await send("POST", path, abort ? { body, signal: abort } : { body });
  const items = await json<T[]>(response);
  return {
    items,
    total: Number(response.headers.get("x-pagination-total") ?? items.length),
    next: response.headers.get("x-pagination-next"),
  };
}

/** The events of a stream as they come, until the server ends it. */
export async function* events(path: string, lastEventId: string | null, abort: AbortSignal): AsyncGenerator<StreamItem[]> {
  const headers: Record<string, string> = { accept: "text/event-stream" };
  if (lastEventId !== null) headers["last-event-id"] = lastEventId;
  const response = await send("GET", path, { headers, signal: abort });
  const parser = new EventParser();
  const reader = (response.body as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const items = parser.push(piece.value);
      if (items.length > 0) yield items;
    }
  } finally {
    // Ends the request if the reader of the events stops early. The server then frees the stream.
    await reader.cancel().catch(() => undefined);
  }
}

/** A type that says more of an answer than the API's document does, and nothing else. */
type Narrowed<Documented, Shown extends { [Key in keyof Shown]: Key extends keyof Documented ? Documented[Key] : never }> = Shown;

export type Run = Narrowed<
  types.Run,
  Omit<types.Run, "kwargs"> & {
    kwargs: { input?: unknown; command?: unknown; context?: unknown; checkpoint?: { checkpoint_id?: string } | null; checkpoint_id?: string | null; [key: string]: unknown };
  }
>;

export type Interrupt = types.Interrupt;
export type Assistant = types.Assistant;
export type Schemas = types.GraphSchemas;
export type Schema = Record<string, unknown>;
export type Info = types.Info;
export type RunMatch = Narrowed<types.SelectedRunMatch, Required<types.SelectedRunMatch>>;

export type Thread = Narrowed<
  types.SelectedThreadMatch,
  {
    thread_id: string;
    created_at: string;
    updated_at: string;
    status: "idle" | "busy" | "interrupted" | "error";
    metadata: Record<string, unknown>;
    title?: string | null;
    values?: unknown;
    interrupts?: Record<string, Interrupt[]>;
    error?: { error?: string; message?: string } | null;
    extracted?: Record<string, unknown>;
  }
>;

export type StateTask = Omit<types.Task, "path" | "state">;

export type ThreadState = Narrowed<
  types.ThreadState,
  {
    values: Record<string, unknown>;
    next: string[];
    tasks: types.Task[];
    metadata: Record<string, unknown> | null;
    created_at: string | null;
    checkpoint: (types.StateCheckpoint & { checkpoint_id: string }) | null;
    parent_checkpoint: (types.StateCheckpoint & { checkpoint_id: string }) | null;
    interrupts: Interrupt[];
  }
>;

export const FINAL = new Set(["success", "error", "timeout", "interrupted"]);
