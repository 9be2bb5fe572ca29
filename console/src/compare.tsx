/** Two lines, runs, or answers of two assistants beside each other, with the words in which they differ. */

import type { AssistantVersion } from "./api-types.ts";
import { useEffect, useMemo, useState } from "preact/hooks";
import { get, page, post, type Assistant, type Run, type ThreadState } from "./api.ts";
import { CheckpointTree } from "./branches.ts";
import { rowOf, STREAM_MODES } from "./conversation.ts";
import { diffWords, type Words } from "./diff.ts";
import { followRun } from "./follow.ts";
import { newId } from "./ids.ts";
import { isMessageList, MessageCollector, textOf, type Message } from "./messages.ts";
import { href, route, setQuery } from "./router.ts";
import { assistants, changed } from "./server-state.ts";
import { duration, Empty, exactTime, pretty, Problem, toast, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

const ROWS = { select: ["checkpoint", "parent_checkpoint", "metadata", "created_at", "next"], limit: 1000 };

interface Part {
  /** Who says it, or the key of a state without messages. */
  title: string;
  text: string;
}

export default function Compare() {
  const thread = route.value.query.get("thread");
  return (
    <main class="page">
      <h1>{words.compare}</h1>
      {thread ? <Lines threadId={thread} /> : <Answers />}
    </main>
  );
}

/** What a state says: its messages, or each of its keys. */
export function partsOf(values: Record<string, unknown> | null | undefined): Part[] {
  if (!values) return [];
  if (!isMessageList(values.messages)) return Object.entries(values).map(([key, value]) => ({ title: key, text: pretty(value) }));
  return values.messages.map((message) => ({ title: words.roles[message.type] ?? message.type, text: said(message) }));
}

function said(message: Message): string {
  const calls = (message.tool_calls ?? []).map((call) => `${call.name}(${pretty(call.args)})`);
  return [textOf(message.content), ...calls].filter(Boolean).join("\n");
}

/** Texts beside each other by their places. What both have is marked as neither. */
function Beside({ left, right, heads }: { left: Part[]; right: Part[]; heads: [string, string] }) {
  const rows = Array.from({ length: Math.max(left.length, right.length) }, (_, index) => [left[index], right[index]] as const);
  return (
    <div class="beside" role="table" aria-label={words.compare}>
      <div role="row" class="beside-row"><strong role="columnheader" dir="auto">{heads[0]}</strong><strong role="columnheader" dir="auto">{heads[1]}</strong></div>
      {rows.map(([one, other], index) => <Pair key={index} one={one} other={other} />)}
    </div>
  );
}

function Pair({ one, other }: { one: Part | undefined; other: Part | undefined }) {
  const changes = useMemo(() => diffWords(one?.text ?? "", other?.text ?? ""), [one?.text, other?.text]);
  const isSame = one !== undefined && other !== undefined && changes.every((each) => each.kind === "same");
  return (
    <div role="row" class={`beside-row ${isSame ? "same" : ""}`}>
      {[one, other].map((part, side) => (
        <div role="cell" key={side}>
          {part && <><h2 dir="auto">{part.title}</h2><p dir="auto"><Marked changes={changes} omitted={side === 0 ? "added" : "removed"} /></p></>}
        </div>
      ))}
    </div>
  );
}

function Marked({ changes, omitted }: { changes: Words[]; omitted: "added" | "removed" }) {
  return <>{changes.filter((each) => each.kind !== omitted).map((each, index) => (each.kind === "same" ? each.text : each.kind === "added" ? <ins key={index}>{each.text}</ins> : <del key={index}>{each.text}</del>))}</>;
}

interface Line {
  checkpoint_id: string;
  label: string;
}

/** The ends of a thread's lines and of its runs, the newest first. */
export function linesOf(tree: CheckpointTree, runs: Run[]): Line[] {
  const leaves = [...tree.rows.values()].filter((row) => tree.children(row.checkpoint_id).length === 0);
  const ends = runs.flatMap((run) => [...tree.rows.values()].filter((row) => row.run_id === run.run_id).sort((a, b) => (a.checkpoint_id < b.checkpoint_id ? 1 : -1)).slice(0, 1));
  const rows = new Map([...ends, ...leaves].map((row) => [row.checkpoint_id, row]));
  const leafIds = new Set(leaves.map((row) => row.checkpoint_id));
  return [...rows.values()]
    .sort((a, b) => (a.checkpoint_id < b.checkpoint_id ? 1 : -1))
    .map((row) => ({ checkpoint_id: row.checkpoint_id, label: `${leafIds.has(row.checkpoint_id) ? words.oneVersion : words.run} · ${row.created_at ? exactTime(row.created_at) : row.checkpoint_id.slice(-6)}` }));
}

function Lines({ threadId }: { threadId: string }) {
  const { query } = route.value;
  const loaded = useLoaded(async (abort) => {
    const [found, runs] = await Promise.all([page<ThreadState>(`/threads/${threadId}/history`, ROWS, abort), get<Run[]>(`/threads/${threadId}/runs?limit=100`, abort)]);
    return linesOf(new CheckpointTree(found.items.flatMap(rowOf)), runs);
  }, threadId);
  const lines = loaded.value ?? [];
  const left = query.get("left") ?? lines[1]?.checkpoint_id ?? "";
  const right = query.get("right") ?? lines[0]?.checkpoint_id ?? "";
  const states = useLoaded(async (abort) => {
    if (!left || !right) return null;
    return Promise.all([left, right].map((id) => get<ThreadState>(`/threads/${threadId}/state/${id}`, abort)));
  }, `${left} ${right}`);
  if (loaded.error) return <Problem error={loaded.error} again={loaded.again} />;
  if (!loaded.value) return <Waiting what={words.loading} />;
  if (lines.length < 2) return <Empty title={words.oneLine}><p class="muted">{words.oneLineHelp}</p></Empty>;
  const labelOf = (id: string) => lines.find((line) => line.checkpoint_id === id)?.label ?? id.slice(-6);
  return (
    <>
      <div class="page-head">
        <a href={href(`threads/${threadId}`)}>{words.thread}</a>
        {([["left", left], ["right", right]] as const).map(([side, chosen]) => (
          <select key={side} aria-label={words.sides[side]} value={chosen} onChange={(event) => setQuery({ [side]: event.currentTarget.value }, { replace: true })}>
            {lines.map((line) => <option key={line.checkpoint_id} value={line.checkpoint_id}>{line.label}</option>)}
          </select>
        ))}
      </div>
      {states.error && <Problem error={states.error} again={states.again} />}
      {states.value && <Beside left={partsOf(states.value[0]?.values)} right={partsOf(states.value[1]?.values)} heads={[labelOf(left), labelOf(right)]} />}
    </>
  );
}

/** A version of an assistant. One that is not current runs as its graph with its settings in the request. */
interface Choice {
  assistant: Assistant;
  version: AssistantVersion | null;
}

interface Attempt {
  parts: Part[];
  threadId: string;
  status: string;
  tookMs: number | null;
}

function Answers() {
  const { query } = route.value;
  const sides = (["left", "right"] as const).map((side, index) => query.get(side) ?? assistants.value[Math.min(index, assistants.value.length - 1)]?.assistant_id ?? "");
  const [choices, setChoices] = useState<(Choice | null)[]>([null, null]);
  const [text, setText] = useState("");
  const [attempts, setAttempts] = useState<(Attempt | null)[]>([null, null]);
  const abort = useMemo(() => new AbortController(), []);
  // Stops the reading when the view is left. The runs continue.
  useEffect(() => () => abort.abort(), []);
  const isRunning = attempts.some((each) => each?.status === "running");
  async function run(event: Event) {
    event.preventDefault();
    setAttempts(choices.map(() => null));
    await Promise.all(choices.map(async (choice, side) => {
      if (!choice) return;
      const show = (attempt: Attempt) => setAttempts((before) => before.map((each, index) => (index === side ? attempt : each)));
      try {
        await ask(choice, text, show, abort.signal);
      } catch (error) {
        toast((error as Error).message);
      }
    }));
    changed();
  }
  return (
    <>
      <form class="card" onSubmit={(event) => void run(event)}>
        <div class="two-sides">
          {(["left", "right"] as const).map((side, index) => (
            <AssistantSide key={side} side={side} chosen={sides[index] as string} onChoice={(choice) => setChoices((before) => before.map((each, at) => (at === index ? choice : each)))} />
          ))}
        </div>
        <label class="field"><span>{words.input}</span><textarea rows={3} dir="auto" required value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
        <p class="muted">{words.inputHelp}</p>
        <div class="buttons"><button type="submit" class="primary" disabled={isRunning || choices.includes(null)}>{words.runBoth}</button></div>
      </form>
      {attempts.some((each) => each !== null) && (
        <>
          <p class="muted" role="status">{attempts.map((each) => (each ? `${words.statuses[each.status] ?? each.status}${each.tookMs === null ? "" : ` · ${duration(each.tookMs)}`}` : "–")).join(" | ")}</p>
          <Beside left={attempts[0]?.parts ?? []} right={attempts[1]?.parts ?? []} heads={[nameOf(choices[0]), nameOf(choices[1])]} />
          <p>{attempts.map((each, index) => each && <a key={index} href={href(`threads/${each.threadId}`)}>{words.openThread} {index + 1}</a>)}</p>
        </>
      )}
    </>
  );
}

function nameOf(choice: Choice | null | undefined): string {
  if (!choice) return "";
  return `${choice.assistant.name} · ${words.version(choice.version?.version ?? choice.assistant.version)}`;
}

function AssistantSide({ side, chosen, onChoice }: { side: "left" | "right"; chosen: string; onChoice: (choice: Choice | null) => void }) {
  const [id, number] = chosen.split("@") as [string, string | undefined];
  const assistant = assistants.value.find((each) => each.assistant_id === id) ?? null;
  const versions = useLoaded((abort) => (assistant ? post<AssistantVersion[]>(`/assistants/${id}/versions`, { limit: 50 }, abort) : Promise.resolve([])), `${id} ${assistant?.version}`);
  const version = versions.value?.find((each) => String(each.version) === number) ?? null;
  useEffect(() => onChoice(assistant && (number === undefined || version) ? { assistant, version } : null), [assistant?.assistant_id, version?.version, number]);
  return (
    <fieldset>
      <legend>{words.sides[side]}</legend>
      <select aria-label={`${words.assistant}, ${words.sides[side]}`} value={id} onChange={(event) => setQuery({ [side]: event.currentTarget.value }, { replace: true })}>
        {assistants.value.map((each) => <option key={each.assistant_id} value={each.assistant_id}>{each.name}</option>)}
      </select>{" "}
      <select aria-label={`${words.oneVersion}, ${words.sides[side]}`} value={number ?? String(assistant?.version ?? "")} onChange={(event) => setQuery({ [side]: `${id}@${event.currentTarget.value}` }, { replace: true })}>
        {(versions.value ?? []).map((each) => <option key={each.version} value={String(each.version)}>{words.version(each.version)}</option>)}
      </select>
    </fieldset>
  );
}

/** The input as JSON if it is an object, or else as a message. */
function inputOf(text: string): unknown {
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value === "object" && value !== null) return value;
  } catch {
    // It is a message.
  }
  return { messages: [{ type: "human", content: text, id: newId() }] };
}

/** Runs an assistant on a new thread, and shows what it says as it comes. */
async function ask({ assistant, version }: Choice, text: string, show: (attempt: Attempt) => void, abort: AbortSignal): Promise<void> {
  const threadId = newId();
  const began = Date.now();
  const isOther = version !== null && version.version !== assistant.version;
  // The server refuses a request with both.
  const settings = isOther ? (Object.keys(version.context ?? {}).length > 0 ? { context: version.context } : { config: version.config }) : {};
  const body = { assistant_id: isOther ? version.graph_id : assistant.assistant_id, input: inputOf(text), if_not_exists: "create", stream_mode: STREAM_MODES, stream_resumable: true, ...settings };
  const run = await post<Run>(`/threads/${threadId}/runs`, body, abort);
  const collector = new MessageCollector();
  const attempt: Attempt = { parts: [], threadId, status: "running", tookMs: null };
  show(attempt);
  const ended = await followRun(threadId, run.run_id, {
    onEvents(items) {
      for (const event of items) if (event.name === "messages") collector.add((JSON.parse(event.data) as [Message])[0]);
      show({ ...attempt, parts: partsOf({ messages: collector.list() }) });
    },
    onGap: () => undefined,
    onConnection: () => undefined,
  }, abort);
  const state = await get<ThreadState>(`/threads/${threadId}/state`, abort);
  show({ ...attempt, parts: partsOf(state.values), status: ended?.status ?? "error", tookMs: Date.now() - began });
}
