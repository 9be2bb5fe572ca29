/** Following a run: its events in order, over lost networks, restarted servers and hidden tabs. */

import { ApiError, events, FINAL, get, type Run } from "./api.ts";
import type { ServerEvent } from "./sse.ts";

export type Connection = "connecting" | "open" | "lost";

export interface Listener {
  onEvents(items: ServerEvent[]): void;
  /** Events were lost: they are no longer kept, or the client read too slowly. */
  onGap(): void;
  onConnection(connection: Connection): void;
}

// Not at once: people switch tabs for a moment, and a new connection would read events again.
const HIDDEN_MS = 60_000;
const TURN_MS = 500;
// Two of the six connections stay free for other requests of the tabs.
const STREAMS_AT_ONCE = 4;
const LOCK = "threadkeep-stream-";

/** Waits until the time has passed or the signal is given. */
export function pause(milliseconds: number, abort: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      clearTimeout(timer);
      abort.removeEventListener("abort", done);
      resolve();
    }
    if (abort.aborted) done();
    else abort.addEventListener("abort", done);
  });
}

/** Waits while the tab is hidden. */
export function visible(abort: AbortSignal): Promise<void> {
  if (document.visibilityState === "visible" || abort.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    function check() {
      if (document.visibilityState !== "visible" && !abort.aborted) return;
      document.removeEventListener("visibilitychange", check);
      abort.removeEventListener("abort", check);
      resolve();
    }
    document.addEventListener("visibilitychange", check);
    abort.addEventListener("abort", check);
  });
}

/** Aborts a connection after the tab was hidden for a minute. The returned function ends the watch. */
function abortIfHidden(controller: AbortController): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  function check() {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = setTimeout(() => controller.abort(), HIDDEN_MS);
  }
  document.addEventListener("visibilitychange", check);
  check();
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", check);
  };
}

/** Browsers open six connections to a host over HTTP/1.1, for all tabs together.
 *
 * Tabs take turns on four of them. A tab that has one gives it up after half a second if another tab waits, and
 * goes on later at its last event id. Where the browser has no locks (plain HTTP to another machine), tabs do not share.
 */
async function withConnection(abort: AbortSignal, read: (turn: AbortController) => Promise<void>): Promise<void> {
  const turn = new AbortController();
  const stop = () => turn.abort();
  abort.addEventListener("abort", stop);
  const endWatch = abortIfHidden(turn);
  try {
    if (!navigator.locks) return await read(turn);
    // Random, or all tabs would wait for the first lock.
    const start = Math.floor(Math.random() * STREAMS_AT_ONCE);
    for (let index = 0; index < STREAMS_AT_ONCE; index++) {
      const name = LOCK + ((start + index) % STREAMS_AT_ONCE);
      const isDone = await navigator.locks.request(name, { ifAvailable: true }, (lock) => (lock ? inTurn(turn, read) : false));
      if (isDone) return;
    }
    await navigator.locks.request(LOCK + start, { signal: abort }, () => inTurn(turn, read));
  } finally {
    endWatch();
    abort.removeEventListener("abort", stop);
  }
}

async function inTurn(turn: AbortController, read: (turn: AbortController) => Promise<void>): Promise<true> {
  const timer = setInterval(() => {
    void navigator.locks.query().then(({ pending }) => {
      // Another tab waits. This one gives up its turn, and continues later at its last event.
      if (pending?.some((each) => each.name?.startsWith(LOCK))) turn.abort();
    });
  }, TURN_MS);
  try {
    await read(turn);
  } finally {
    clearInterval(timer);
  }
  return true;
}

/** Follows a run to its end and returns the run, or null if it is gone or `abort` was given. */
export async function followRun(threadId: string, runId: string, listener: Listener, abort: AbortSignal): Promise<Run | null> {
  const path = `/threads/${threadId}/runs/${runId}`;
  // From before the first event. Without an id the server would send only what comes from now on.
  let lastEventId = "-1";
  let failures = 0;
  const read = async (turn: AbortController) => {
    for await (const items of events(`${path}/stream`, lastEventId, turn.signal)) {
      failures = 0;
      listener.onConnection("open");
      const received = items.filter((item): item is ServerEvent => "name" in item);
      // The server tells of a gap in a comment, which the official SDKs skip.
      if (items.some((item) => "comment" in item && item.comment.startsWith("gap until"))) listener.onGap();
      lastEventId = received.findLast((item) => item.id !== "")?.id ?? lastEventId;
      if (received.length > 0) listener.onEvents(received);
    }
  };
  while (!abort.aborted) {
    try {
      await visible(abort);
      await withConnection(abort, read);
      // The stream has no event for its end, and it also ends if the server stops.
      const run = await get<Run>(path, abort);
      if (FINAL.has(run.status)) return run;
    } catch (error) {
      if (abort.aborted) return null;
      // Deleted or not allowed: another attempt gets the same answer.
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) return null;
      if (error instanceof DOMException && error.name === "AbortError") continue; // a turn that ended
      listener.onConnection("lost");
      failures++;
      const retryS = error instanceof ApiError ? (error.retryAfterS ?? 0) : 0;
      // At most three seconds, because a person is looking at it.
      await pause(Math.max(retryS * 1000, Math.min(250 * 2 ** failures, 3000)), abort);
    }
  }
  return null;
}

/** The events that are kept of a run that has ended. Empty if none are kept any more. */
export async function pastEvents(threadId: string, runId: string, abort: AbortSignal): Promise<ServerEvent[]> {
  const received: ServerEvent[] = [];
  for await (const items of events(`/threads/${threadId}/runs/${runId}/stream`, "-1", abort)) {
    received.push(...items.filter((item): item is ServerEvent => "name" in item));
  }
  return received;
}
