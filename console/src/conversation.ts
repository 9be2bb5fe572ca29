/** A thread as it is shown: its state, its branches, the run that goes on, those that wait and those that failed. */

import { batch, computed, signal } from "@preact/signals";
import { ApiError, FINAL, get, page, post, send, type Interrupt, type Run, type Thread, type ThreadState } from "./api.ts";
import { CheckpointTree, firstReached, type CheckpointRow, type Fork } from "./branches.ts";
import { followRun, pastEvents, type Connection } from "./follow.ts";
import { isMessageList, MessageCollector, textOf, type Message } from "./messages.ts";
import { href } from "./router.ts";
import type { ServerEvent } from "./sse.ts";
import { newId } from "./ids.ts";

export interface LiveRun {
  run: Run;
  messages: Message[];
  node: string | null;
  connection: Connection;
  attempt: number;
  hasGap: boolean;
  isStopping: boolean;
  startedAt: number;
  /** The last values that a graph without messages streamed. */
  values: unknown;
}

/** A run that did not end well: what it said until then, and why it ended. */
export interface Remnant {
  run: Run;
  messages: Message[];
  error: { error: string; message: string; request_id?: string } | null;
}

export interface SendFailure {
  detail: string;
  requestId: string | null;
  /** When the request can be made again, in milliseconds of the clock, or null. */
  retryAt: number | null;
  again: () => void;
}

export const STREAM_MODES = ["messages-tuple", "updates", "values"];
const ROWS = { select: ["checkpoint", "parent_checkpoint", "metadata", "created_at", "next"], limit: 1000 };
const MAX_PAGES = 5;
const RUNS = 50;
const MAX_REMNANTS = 10;

/** The messages of an input in one form: inputs may be text, tuples, or have `role` in place of `type`. */
export function inputMessages(input: unknown): Message[] {
  const value = typeof input === "object" && input !== null && "messages" in input ? input.messages : undefined;
  const list = Array.isArray(value) ? value : value === undefined ? [] : [value];
  return list.flatMap((each): Message[] => {
    if (typeof each === "string") return [{ type: "human", content: each }];
    if (Array.isArray(each)) return [{ type: typeOf(each[0]), content: String(each[1]) }];
    if (typeof each !== "object" || each === null) return [];
    return [{ ...each, type: typeOf(each.type ?? each.role), content: each.content ?? "" }];
  });
}

function typeOf(role: unknown): string {
  // Clients of OpenAI's form say `role`, and LangChain says `type`.
  return { user: "human", assistant: "ai" }[String(role)] ?? String(role ?? "human");
}

export function rowOf(state: ThreadState): CheckpointRow[] {
  if (!state.checkpoint) return [];
  const metadata = state.metadata ?? {};
  return [
    {
      checkpoint_id: state.checkpoint.checkpoint_id,
      parent_id: state.parent_checkpoint?.checkpoint_id ?? null,
      created_at: state.created_at,
      source: String(metadata.source ?? ""),
      step: Number(metadata.step ?? 0),
      run_id: typeof metadata.run_id === "string" ? metadata.run_id : null,
      next: state.next,
    },
  ];
}

export class Conversation {
  readonly thread = signal<Thread | null>(null);
  readonly state = signal<ThreadState | null>(null);
  readonly tree = signal<CheckpointTree | null>(null);
  /** Where lines part, by the index of the first message after the place. */
  readonly forks = signal(new Map<number, Fork>());
  readonly live = signal<LiveRun | null>(null);
  readonly queue = signal<Run[]>([]);
  readonly remnants = signal<Remnant[]>([]);
  readonly runs = signal<Run[]>([]);
  readonly loadError = signal<ApiError | Error | null>(null);
  readonly failure = signal<SendFailure | null>(null);
  readonly isLoading = signal(true);
  /** The checkpoint that is shown if it is not the newest. */
  readonly shownLeaf = signal<string | null>(null);
  /** Another tab or person answered first. */
  readonly answeredElsewhere = signal(false);

  readonly messages = computed<Message[]>(() => {
    const messages = this.state.value?.values.messages;
    return isMessageList(messages) ? messages : [];
  });
  readonly interrupts = computed<Interrupt[]>(() => {
    if (this.live.value) return [];
    return (this.state.value?.tasks ?? []).flatMap((task) => task.interrupts);
  });

  private readonly closed = new AbortController();
  private isFollowing = false;

  constructor(
    readonly threadId: string,
    private readonly onChange: () => void,
  ) {}

  close(): void {
    this.closed.abort();
  }

  get isClosed(): boolean {
    return this.closed.signal.aborted;
  }

  private get path(): string {
    return `/threads/${this.threadId}`;
  }

  /** Reads everything, and follows the run that goes on. */
  async load(): Promise<void> {
    try {
      const [thread] = await Promise.all([get<Thread>(this.path, this.closed.signal), this.refresh()]);
      this.thread.value = thread;
    } catch (error) {
      if (!this.isClosed) this.loadError.value = error as Error;
    } finally {
      this.isLoading.value = false;
    }
  }

  /** Reads state, runs and checkpoints again. */
  async refresh(): Promise<void> {
    const leaf = this.shownLeaf.value;
    const [state, runs] = await Promise.all([
      get<ThreadState>(`${this.path}/state${leaf ? `/${leaf}` : ""}`, this.closed.signal),
      get<Run[]>(`${this.path}/runs?limit=${RUNS}`, this.closed.signal),
    ]);
    // Together, so that no drawing shows the new state beside the old run.
    batch(() => {
      this.state.value = state;
      this.runs.value = runs;
      this.loadError.value = null;
      // Only now: the state that was read has the messages of the run, so nothing disappears in between.
      if (this.live.value && FINAL.has(runs.find((run) => run.run_id === this.live.value?.run.run_id)?.status ?? "")) this.live.value = null;
    });
    this.takeNext(runs);
    await this.readCheckpoints();
    await this.readRemnants(runs);
  }

  /** Follows the run that goes on, and lists those that wait after it. */
  private takeNext(runs: Run[]): void {
    // The server lists the newest first, and the queue runs the oldest first.
    const active = runs.filter((run) => !FINAL.has(run.status)).reverse();
    const first = active.find((run) => run.status === "running") ?? active[0];
    this.queue.value = active.filter((run) => run !== first);
    if (first) void this.follow(first);
  }

  /** Reads the checkpoints again while a run goes on. */
  async readTree(): Promise<void> {
    await this.readCheckpoints().catch(() => undefined);
  }

  private async readCheckpoints(): Promise<void> {
    const rows: CheckpointRow[] = [];
    let before: string | null = null;
    // A thread may have any number of checkpoints. More than these could not be shown anyway.
    for (let pages = 0; pages < MAX_PAGES; pages++) {
      const found: { items: ThreadState[]; next: string | null } = await page<ThreadState>(
        `${this.path}/history`,
        before ? { ...ROWS, before } : ROWS,
        this.closed.signal,
      );
      rows.push(...found.items.flatMap(rowOf));
      before = found.next;
      if (!before || found.items.length === 0) break;
    }
    const tree = new CheckpointTree(rows);
    this.tree.value = tree;
    await this.readForks(tree);
  }

  private async readForks(tree: CheckpointTree): Promise<void> {
    const leaf = this.shownLeaf.value ?? tree.newest();
    const forks = tree.forks(leaf);
    const places = await Promise.all(forks.map((fork) => (fork.parent_id ? this.messagesAt(fork.parent_id) : Promise.resolve([]))));
    this.forks.value = new Map(forks.map((fork, index) => [places[index]?.length ?? 0, fork]));
  }

  private readonly known = new Map<string, string[]>();

  /** The ids of the messages in the state at a checkpoint. */
  private async messagesAt(checkpointId: string): Promise<string[]> {
    const known = this.known.get(checkpointId);
    if (known) return known;
    const state = await get<ThreadState>(`${this.path}/state/${checkpointId}?select=values.messages`, this.closed.signal);
    const messages = isMessageList(state.values?.messages) ? state.values.messages : [];
    const ids = messages.map((message) => message.id ?? "");
    // For good: a checkpoint never changes.
    this.known.set(checkpointId, ids);
    return ids;
  }

  /** What failed and stopped runs had said, from their events. */
  private async readRemnants(runs: Run[]): Promise<void> {
    const shown = this.remnants.value.filter(({ run }) => runs.some((each) => each.run_id === run.run_id));
    // Each run is read once, because a run that has ended gets no more events.
    const missing = runs.filter((run) => ["error", "timeout", "interrupted"].includes(run.status) && !shown.some((each) => each.run.run_id === run.run_id));
    const read = await Promise.all(missing.slice(0, MAX_REMNANTS).map((run) => this.remnantOf(run)));
    this.remnants.value = [...shown, ...read];
  }

  private async remnantOf(run: Run): Promise<Remnant> {
    let received: ServerEvent[] = [];
    try {
      received = await pastEvents(this.threadId, run.run_id, this.closed.signal);
    } catch (error) {
      if (this.isClosed) throw error;
    }
    const last = received.findLast((event) => event.name === "error");
    const thread = this.thread.value?.error;
    const error = last ? (JSON.parse(last.data) as Remnant["error"]) : null;
    return { run, messages: collected(received).list(), error: error ?? (run.status === "error" && thread ? { error: thread.error ?? "", message: thread.message ?? "" } : null) };
  }

  private async follow(run: Run): Promise<void> {
    // One stream for each conversation. The end of a run looks for the next one.
    if (this.isFollowing || this.isClosed) return;
    this.isFollowing = true;
    const collector = new LiveCollector(run, this.live);
    const ended = await followRun(this.threadId, run.run_id, collector, this.closed.signal);
    collector.finish();
    this.isFollowing = false;
    if (this.isClosed) return;
    if (ended && ended.status !== "success") {
      // For the thread's error, which the runs do not have.
      this.thread.value = await get<Thread>(this.path, this.closed.signal).catch(() => this.thread.value);
    }
    await this.settle();
  }

  /** Shows the end of a run: its messages stay until the state that holds them has been read. */
  private async settle(): Promise<void> {
    for (let attempt = 0; !this.isClosed; attempt++) {
      try {
        await this.refresh();
        break;
      } catch (error) {
        // A server that restarts is back within ten seconds. A refusal would stay one.
        if (this.isClosed || (error instanceof ApiError && error.status < 500) || attempt > 20) break;
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
    this.onChange();
  }

  /** Starts a run and follows it. A run on a busy thread waits in the queue. */
  private async start(body: Record<string, unknown>, again: () => void): Promise<boolean> {
    this.failure.value = null;
    try {
      // Resumable, because a tab may be loaded again, or lose its connection, in the middle of the run.
      const request = { stream_mode: STREAM_MODES, stream_resumable: true, multitask_strategy: "enqueue", if_not_exists: "create", ...body };
      const run = await post<Run>(`${this.path}/runs`, request);
      this.runs.value = [run, ...this.runs.value];
      this.answeredElsewhere.value = false;
      if (this.live.value) this.queue.value = [...this.queue.value, run];
      else {
        this.live.value = newLive(run);
        void this.follow(run);
      }
      this.onChange();
      return true;
    } catch (error) {
      this.failure.value = failureOf(error, again);
      return false;
    }
  }

  async send(assistantId: string, input: unknown, options: Record<string, unknown> = {}): Promise<boolean> {
    const leaf = this.shownLeaf.value;
    const body = { assistant_id: assistantId, input, ...(leaf ? { checkpoint_id: leaf } : {}), ...options };
    this.shownLeaf.value = null;
    return this.start(body, () => void this.send(assistantId, input, options));
  }

  /** Answers interrupts: for each id of one, its answer. Interrupts that get none stay open. */
  async resume(assistantId: string, answers: Record<string, unknown>): Promise<boolean> {
    if (await this.isAnswered(Object.keys(answers))) return false;
    // `reject`: an answer that waits behind another person's answer would meet another question.
    const body = { assistant_id: assistantId, command: { resume: answers }, multitask_strategy: "reject" };
    const isDone = await this.start(body, () => void this.resume(assistantId, answers));
    if (!isDone && (await this.isAnswered(Object.keys(answers)))) this.failure.value = null;
    return isDone;
  }

  /** Whether somebody answered one of these in the meantime. The page then shows how the thread stands. */
  private async isAnswered(ids: string[]): Promise<boolean> {
    const state = await get<ThreadState>(`${this.path}/state`).catch(() => null);
    const thread = await get<Thread>(this.path).catch(() => null);
    if (!state || !thread) return false;
    const open = new Set(state.tasks.flatMap((task) => task.interrupts.map((each) => each.id)));
    // A busy thread is being answered, although its last checkpoint still has the question.
    if (thread.status !== "busy" && ids.every((id) => open.has(id))) return false;
    await this.refresh();
    this.answeredElsewhere.value = true;
    return true;
  }

  /** Goes on from where the thread stands, as after a breakpoint or a failure. */
  async goOn(assistantId: string): Promise<boolean> {
    return this.start({ assistant_id: assistantId, input: null }, () => void this.goOn(assistantId));
  }

  /** Runs again from a checkpoint. What came after it stays as another line. */
  async runFrom(assistantId: string, checkpointId: string, options: Record<string, unknown>): Promise<boolean> {
    const state = await get<ThreadState>(`${this.path}/state/${checkpointId}`);
    const body = { assistant_id: assistantId, input: null, checkpoint_id: checkpointId, ...options };
    const isDone = await this.start(body, () => void this.runFrom(assistantId, checkpointId, options));
    if (isDone) {
      this.shownLeaf.value = null;
      // Without its tasks: their questions belong to the other line.
      this.state.value = { ...state, tasks: [] };
    }
    return isDone;
  }

  async stop(): Promise<void> {
    const live = this.live.value;
    if (!live) return;
    this.live.value = { ...live, isStopping: true };
    await this.cancel(live.run.run_id);
  }

  async cancel(runId: string): Promise<void> {
    try {
      await send("POST", `${this.path}/runs/${runId}/cancel?action=interrupt`);
    } catch (error) {
      // The run has ended meanwhile, which is what was wanted.
      if (!(error instanceof ApiError && (error.status === 404 || error.status === 409))) throw error;
    }
    this.queue.value = this.queue.value.filter((run) => run.run_id !== runId);
  }

  /** The checkpoints of the line that is shown. */
  private get shownPath(): string[] {
    const tree = this.tree.value;
    return tree ? tree.path(this.state.value?.checkpoint?.checkpoint_id ?? tree.newest()) : [];
  }

  private async firstWith(messageId: string): Promise<string | null> {
    return firstReached(this.shownPath, async (id) => (await this.messagesAt(id)).includes(messageId));
  }

  /** Sends a human message anew in place of another. The other line stays. */
  async edit(assistantId: string, message: Message, content: unknown): Promise<boolean> {
    const first = message.id ? await this.firstWith(message.id) : null;
    const before = first ? this.tree.value?.beforeInput(first) : null;
    if (!before) return this.unbranchable(message);
    this.showUntil(message);
    const input = { messages: [{ type: "human", content, id: newId() }] };
    return this.start({ assistant_id: assistantId, input, checkpoint_id: before }, () => void this.edit(assistantId, message, content));
  }

  /** Answers again from just before this message. The other line stays. */
  async regenerate(assistantId: string, message: Message): Promise<boolean> {
    const first = message.id ? await this.firstWith(message.id) : null;
    const before = first ? this.tree.value?.parentOf(first) : null;
    if (!before) return this.unbranchable(message);
    this.showUntil(message);
    return this.start({ assistant_id: assistantId, input: null, checkpoint_id: before }, () => void this.regenerate(assistantId, message));
  }

  private unbranchable(message: Message): boolean {
    this.failure.value = { detail: `No checkpoint before the message ${message.id ?? ""} is kept.`, requestId: null, retryAt: null, again: () => undefined };
    return false;
  }

  /** Shows the messages before this one until the new line has some of its own. */
  private showUntil(message: Message): void {
    const state = this.state.value;
    if (!state) return;
    const index = this.messages.value.findIndex((each) => each.id === message.id);
    this.shownLeaf.value = null;
    this.state.value = { ...state, values: { ...state.values, messages: this.messages.value.slice(0, index) }, tasks: [] };
  }

  /** Shows another line at a fork, or the newest one if null. */
  async show(checkpointId: string | null): Promise<void> {
    const leaf = checkpointId ? (this.tree.value?.newestLeaf(checkpointId) ?? checkpointId) : null;
    this.shownLeaf.value = leaf === this.tree.value?.newest() ? null : leaf;
    await this.refresh();
  }

  /** The view that shows the line of a fork that is shown beside the one before it, or after it. */
  compareAddress(fork: Fork): string {
    const tree = this.tree.value;
    const other = fork.children[fork.shown === 0 ? 1 : fork.shown - 1] as string;
    const [left, right] = [other, fork.children[fork.shown] as string].map((id) => tree?.newestLeaf(id) ?? id);
    return href(`compare?thread=${this.threadId}&left=${left}&right=${right}`);
  }

  /** Where the remnant of a run belongs: the index after which it is shown, or null if it is not of this line. */
  placeOf(run: Run): number | null {
    const messages = this.messages.value;
    const asked = inputMessages(run.kwargs.input).at(-1);
    if (asked?.id) {
      const index = messages.findIndex((message) => message.id === asked.id);
      if (index !== -1) {
        const next = messages.findIndex((message, at) => at > index && message.type === "human");
        return next === -1 ? messages.length : next;
      }
    }
    const leaf = this.state.value?.checkpoint?.checkpoint_id;
    const isLast = this.runs.value.findLast((each) => each.created_at >= run.created_at)?.run_id === run.run_id;
    const wroteLeaf = leaf !== undefined && this.tree.value?.rows.get(leaf)?.run_id === run.run_id;
    return wroteLeaf || (isLast && this.shownLeaf.value === null && !asked?.id) ? messages.length : null;
  }

  title(): string {
    const first = this.messages.value.find((message) => message.type === "human");
    return textOf(first?.content).slice(0, 120);
  }
}

function collected(received: ServerEvent[]): MessageCollector {
  let collector = new MessageCollector();
  for (const event of received) {
    // Another process has begun the run again, and sends all of it once more.
    if (event.name === "metadata" && attemptOf(event) > 1) collector = new MessageCollector();
    if (event.name === "messages") collector.add((JSON.parse(event.data) as [Message])[0]);
  }
  return collector;
}

function attemptOf(event: ServerEvent): number {
  return Number((JSON.parse(event.data) as { attempt?: number }).attempt ?? 1);
}

function newLive(run: Run): LiveRun {
  return { run, messages: [], node: null, connection: "connecting", attempt: 1, hasGap: false, isStopping: false, startedAt: Date.now(), values: undefined };
}

/** Takes the events of a run into a signal, at most once for each frame that is drawn. */
class LiveCollector {
  private collector = new MessageCollector();
  private frame: number | null = null;
  private pending: Partial<LiveRun> = {};

  constructor(
    run: Run,
    private readonly live: { value: LiveRun | null },
  ) {
    // `start` has set it already, so that the message appears before the first event.
    if (live.value?.run.run_id !== run.run_id) live.value = newLive(run);
  }

  onEvents(items: ServerEvent[]): void {
    for (const event of items) this.take(event);
    // A hidden tab draws no frames. It gets the events all the same.
    if (document.visibilityState === "hidden") this.draw();
    else this.frame ??= requestAnimationFrame(() => this.draw());
  }

  private take(event: ServerEvent): void {
    if (event.name === "metadata") {
      const attempt = attemptOf(event);
      if (attempt > (this.live.value?.attempt ?? 1)) {
        // It says all of it again, so nothing is missing of what the attempt before it had not yet told.
        this.collector = new MessageCollector();
        this.pending.hasGap = false;
      }
      this.pending.attempt = attempt;
      if (this.live.value) this.live.value = { ...this.live.value, run: { ...this.live.value.run, status: "running" } };
    } else if (event.name === "messages") {
      const [message, metadata] = JSON.parse(event.data) as [Message, { langgraph_node?: string }];
      this.collector.add(message);
      this.pending.node = metadata.langgraph_node ?? null;
    } else if (event.name === "values") {
      this.pending.values = JSON.parse(event.data) as unknown;
    }
  }

  private draw(): void {
    this.frame = null;
    if (this.live.value) this.live.value = { ...this.live.value, ...this.pending, messages: this.collector.list() };
    this.pending = {};
  }

  onGap(): void {
    if (this.live.value) this.live.value = { ...this.live.value, hasGap: true };
  }

  onConnection(connection: Connection): void {
    if (this.live.value && this.live.value.connection !== connection) this.live.value = { ...this.live.value, connection };
  }

  finish(): void {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.draw();
  }
}

export function failureOf(error: unknown, again: () => void): SendFailure {
  if (!(error instanceof ApiError)) return { detail: String(error instanceof Error ? error.message : error), requestId: null, retryAt: null, again };
  const retryAt = error.retryAfterS === null ? null : Date.now() + error.retryAfterS * 1000;
  return { detail: error.detail, requestId: error.requestId, retryAt, again };
}
