/** Requests to the server that serves this page. Nothing else is ever called. */

import { signal } from "@preact/signals";
import { EventParser, type StreamItem } from "./sse.ts";

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
  if (error.status === 401) needsSignIn.value = true;
  throw error;
}

async function json<T>(response: Response): Promise<T> {
  const text = await response.text();
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
    await reader.cancel().catch(() => undefined);
  }
}

export interface Thread {
  thread_id: string;
  created_at: string;
  updated_at: string;
  status: "idle" | "busy" | "interrupted" | "error";
  metadata: Record<string, unknown>;
  title?: string | null;
  values?: unknown;
  interrupts?: Record<string, { id: string; value: unknown }[]>;
  error?: { error?: string; message?: string } | null;
  extracted?: Record<string, unknown>;
}

export interface Run {
  run_id: string;
  thread_id: string;
  assistant_id: string;
  created_at: string;
  updated_at: string;
  status: "pending" | "running" | "success" | "error" | "timeout" | "interrupted";
  metadata: Record<string, unknown>;
  kwargs: { input?: unknown; command?: unknown; checkpoint?: { checkpoint_id?: string } | null; checkpoint_id?: string | null; [key: string]: unknown };
  multitask_strategy: string;
}

export interface Interrupt {
  id: string;
  value: unknown;
}

export interface StateTask {
  id: string;
  name: string;
  error: string | null;
  interrupts: Interrupt[];
  checkpoint?: { checkpoint_ns?: string; checkpoint_id?: string } | null;
  result?: unknown;
}

export interface ThreadState {
  values: Record<string, unknown>;
  next: string[];
  tasks: StateTask[];
  metadata: Record<string, unknown> | null;
  created_at: string | null;
  checkpoint: { checkpoint_id: string; checkpoint_ns: string } | null;
  parent_checkpoint: { checkpoint_id: string } | null;
  interrupts: Interrupt[];
}

export interface Assistant {
  assistant_id: string;
  graph_id: string;
  name: string;
  description: string | null;
  version: number;
  metadata: Record<string, unknown>;
  config: Record<string, unknown>;
  context: Record<string, unknown>;
  created_at: string;
  updated_at: string;
}

export type Schema = Record<string, unknown>;

export interface Schemas {
  graph_id: string;
  input_schema: Schema | null;
  output_schema: Schema | null;
  state_schema: Schema | null;
  config_schema: Schema | null;
  context_schema: Schema | null;
}

export interface Info {
  version: string;
  langgraph_py_version: string;
  flags: Record<string, boolean>;
  auth?: { kind: string };
  limits: { run_slots: number; max_waiting: number; body_bytes: number; run_timeout_s: number };
  load: { running: number; waiting: number };
}

export const FINAL = new Set(["success", "error", "timeout", "interrupted"]);
