/** Why a run did what it did: its steps on a time axis, the state at each of them, and what each changed. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { FINAL, get, page, post, root, type Assistant, type Run, type ThreadState } from "./api.ts";
import type { CheckpointRow, CheckpointTree } from "./branches.ts";
import type { Conversation } from "./conversation.ts";
import { diffJson, diffWords, type Change, type Json } from "./diff.ts";
import { JsonInput } from "./form.tsx";
import { Icon } from "./icons.tsx";
import { Playback } from "./playback.tsx";
import { curlOf, pythonOf } from "./requests.tsx";
import { href, route, setQuery } from "./router.ts";
import { may } from "./server-state.ts";
import { copy, duration, Id, JsonView, pretty, Problem, Status, Time, toast, useLoaded, Waiting } from "./ui.tsx";
import { GraphView } from "./graph.tsx";
import { words } from "./words.ts";

export interface Step {
  checkpoint_id: string;
  /** The nodes that ran in this step, or the source of a checkpoint that no node made. */
  names: string[];
  startMs: number;
  endMs: number;
}

function timeOf(row: CheckpointRow | undefined): number {
  return row?.created_at ? Date.parse(row.created_at) : 0;
}

/** The steps of a run in their order: each lasts from the checkpoint before it to its own. */
export function stepsOf(tree: CheckpointTree, run: Run): Step[] {
  const ids = [...tree.rows.keys()].filter((id) => tree.rows.get(id)?.run_id === run.run_id).sort();
  return ids.map((id) => {
    const row = tree.rows.get(id) as CheckpointRow;
    const parent = row.parent_id ? tree.rows.get(row.parent_id) : undefined;
    const isOfRun = parent?.run_id === run.run_id;
    // A checkpoint does not name the nodes that made it, but its parent names those to run next.
    const names = row.source === "loop" && parent?.next.length ? parent.next : [row.source];
    const endMs = timeOf(row);
    return { checkpoint_id: id, names, startMs: isOfRun ? timeOf(parent) : Math.min(endMs, Date.parse(run.created_at)), endMs };
  });
}

interface InspectorProps {
  conversation: Conversation;
  assistant: Assistant | null;
}

export function Inspector({ conversation, assistant }: InspectorProps) {
  const { query } = route.value;
  const live = conversation.live.value;
  const runs = conversation.runs.value;
  const run = runs.find((each) => each.run_id === query.get("run")) ?? runs.find((each) => each.run_id === live?.run.run_id) ?? runs[0] ?? null;
  const tree = conversation.tree.value;
  const liveStep = live?.node ?? "";
  useEffect(() => {
    // A new node means a new checkpoint. No event tells of checkpoints, because their mode is not streamed.
    if (live) void conversation.readTree();
  }, [liveStep, live?.run.run_id]);
  const steps = useMemo(() => (tree && run ? stepsOf(tree, run) : []), [tree, run]);
  const chosen = query.get("step");
  return (
    <aside class="inspector" aria-label={words.inspector}>
      <div class="inspector-head">
        <h2>{words.inspector}</h2>
        <button type="button" class="quiet" aria-label={words.close} onClick={() => setQuery({ inspect: null, run: null, step: null }, { replace: true })}><Icon name="close" /></button>
      </div>
      {!run ? <p class="muted">{words.noRuns}</p> : (
        <>
          <RunHead run={run} runs={runs} steps={steps} isLive={live?.run.run_id === run.run_id} conversation={conversation} assistant={assistant} />
          <Timeline run={run} steps={steps} chosen={chosen} liveNode={live?.run.run_id === run.run_id ? live.node : null} />
          {assistant && <GraphView assistant={assistant} counts={countsOf(steps)} liveNode={live?.run.run_id === run.run_id ? live.node : null} hasFailed={run.status === "error"} onNode={(node) => {
            const step = steps.findLast((each) => each.names.includes(node));
            if (step) setQuery({ step: step.checkpoint_id }, { replace: true });
          }} />}
          {chosen && tree?.rows.has(chosen) && <StepDetail key={chosen} checkpointId={chosen} tree={tree} conversation={conversation} assistant={assistant} />}
          {!chosen && steps.length > 0 && <p class="muted">{words.chooseStep}</p>}
        </>
      )}
    </aside>
  );
}

function countsOf(steps: Step[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of steps.flatMap((step) => step.names)) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

function RunHead({ run, runs, steps, isLive, conversation, assistant }: { run: Run; runs: Run[]; steps: Step[]; isLive: boolean; conversation: Conversation; assistant: Assistant | null }) {
  const [isPlayed, setPlayed] = useState(false);
  const status = isLive ? "running" : run.status;
  return (
    <div class="run-head">
      <select aria-label={words.run} value={run.run_id} onChange={(event) => setQuery({ run: event.currentTarget.value, step: null }, { replace: true })}>
        {runs.map((each) => <option key={each.run_id} value={each.run_id}>{new Date(each.created_at).toLocaleTimeString()} · {words.statuses[each.status]}</option>)}
      </select>
      <Status status={status} /> <Time iso={run.created_at} /> <Id value={run.run_id} />
      {assistant && may("threads.create_run") && run.kwargs.input != null && !isLive && (
        <button type="button" onClick={() => void conversation.send(assistant.assistant_id, run.kwargs.input)}>{words.runAgain}</button>
      )}
      {FINAL.has(status) && <button type="button" onClick={() => setPlayed(true)}>{words.playBack}</button>}
      {runs.length > 1 && <a href={href(`compare?thread=${run.thread_id}`)}>{words.compare}</a>}
      <CopyAs run={run} />
      {isPlayed && <Playback run={run} steps={steps} onClose={() => setPlayed(false)} />}
    </div>
  );
}

function bodyOf(run: Run): Record<string, unknown> {
  const { input, command, context } = run.kwargs;
  return { assistant_id: run.assistant_id, ...(input != null ? { input } : {}), ...(command ? { command } : {}), ...(context ? { context } : {}) };
}

function CopyAs({ run }: { run: Run }) {
  const request = { number: 0, at: "", method: "POST", path: `${root}/threads/${run.thread_id}/runs/wait`, body: bodyOf(run) };
  return (
    <span class="copy-as">
      <button type="button" class="quiet" onClick={() => copy(curlOf(request))}>{words.copyCurl}</button>
      <button type="button" class="quiet" onClick={() => copy(pythonOf(request))}>{words.copyPython}</button>
    </span>
  );
}

const MAX_BARS = 400;

function Timeline({ run, steps, chosen, liveNode }: { run: Run; steps: Step[]; chosen: string | null; liveNode: string | null }) {
  const start = Date.parse(run.created_at);
  const end = Math.max(start + 1, liveNode ? Date.now() : 0, ...steps.map((step) => step.endMs));
  const share = (time: number) => `${(Math.max(0, Math.min(1, (time - start) / (end - start))) * 100).toFixed(2)}%`;
  return (
    <section class="timeline" aria-label={words.steps}>
      <h3>{words.steps} <span class="muted tabular">{duration(end - start)}</span></h3>
      <ol>
        {steps.slice(0, MAX_BARS).map((step) => (
          <li key={step.checkpoint_id}>
            <button type="button" class="step" aria-pressed={step.checkpoint_id === chosen} onClick={() => setQuery({ step: step.checkpoint_id === chosen ? null : step.checkpoint_id, run: run.run_id }, { replace: true })}>
              <span class="step-name" dir="auto">{step.names.map((name) => words.sources[name] ?? name).join(", ")}</span>
              <span class="step-track" aria-hidden="true"><span class="step-bar" style={{ insetInlineStart: share(step.startMs), inlineSize: `max(2px, calc(${share(step.endMs)} - ${share(step.startMs)}))` }} /></span>
              <span class="step-time tabular muted">{duration(step.endMs - step.startMs)}</span>
            </button>
          </li>
        ))}
        {liveNode && <li class="step live-step"><span class="step-name">{liveNode}</span><span class="pulse" /></li>}
      </ol>
      {steps.length > MAX_BARS && <p class="muted">{words.more(steps.length - MAX_BARS)}</p>}
    </section>
  );
}

type Tab = "diff" | "state" | "tasks" | "raw";

function StepDetail({ checkpointId, tree, conversation, assistant }: { checkpointId: string; tree: CheckpointTree; conversation: Conversation; assistant: Assistant | null }) {
  const [tab, setTab] = useState<Tab>("diff");
  const base = `/threads/${conversation.threadId}/state/`;
  const parent = tree.parentOf(checkpointId);
  const loaded = useLoaded(async (abort) => {
    const [state, before] = await Promise.all([get<ThreadState>(base + checkpointId, abort), parent ? get<ThreadState>(base + parent, abort) : Promise.resolve(null)]);
    return { state, before };
  }, checkpointId);
  if (loaded.error) return <Problem error={loaded.error} again={loaded.again} />;
  if (!loaded.value) return <Waiting what={words.loading} />;
  const { state, before } = loaded.value;
  const tabs: [Tab, string][] = [["diff", words.diff], ["state", words.values], ["tasks", words.tasks], ["raw", words.raw]];
  return (
    <section class="step-detail">
      <div class="tabs">
        <div role="tablist">{tabs.map(([name, label]) => <button key={name} type="button" role="tab" aria-selected={tab === name} class="quiet" onClick={() => setTab(name)}>{label}</button>)}</div>
        <span class="grow" /><Id value={checkpointId} />
      </div>
      <div role="tabpanel" aria-label={tabs.find(([name]) => name === tab)?.[1]}>
        {tab === "diff" && <Changes changes={diffJson((before?.values ?? {}) as Json, state.values as Json)} />}
        {tab === "state" && <JsonView value={state.values} />}
        {tab === "tasks" && <Tasks before={before} threadId={conversation.threadId} />}
        {tab === "raw" && <JsonView value={state} />}
      </div>
      {assistant && may("threads.create_run") && <Fork checkpointId={checkpointId} state={state} conversation={conversation} assistant={assistant} />}
    </section>
  );
}

export function Changes({ changes }: { changes: Change[] }) {
  if (changes.length === 0) return <p class="muted">{words.noChange}</p>;
  return (
    <ul class="changes">
      {changes.map((change) => (
        <li key={change.path} class={change.kind}>
          <code dir="ltr">{{ added: "+", removed: "−", changed: "±" }[change.kind]} {change.path}</code>
          {typeof change.before === "string" && typeof change.after === "string" ? <WordChanges before={change.before} after={change.after} /> : (
            <>
              {change.before !== undefined && <pre class="removed" dir="auto">{cut(change.before)}</pre>}
              {change.after !== undefined && <pre class="added" dir="auto">{cut(change.after)}</pre>}
            </>
          )}
        </li>
      ))}
    </ul>
  );
}

function WordChanges({ before, after }: { before: string; after: string }) {
  return <pre dir="auto">{diffWords(cut(before), cut(after)).map((each, index) => (each.kind === "same" ? each.text : each.kind === "added" ? <ins key={index}>{each.text}</ins> : <del key={index}>{each.text}</del>))}</pre>;
}

function cut(value: Json): string {
  const text = pretty(value);
  return text.length > 3000 ? `${text.slice(0, 3000)}… ${words.cut}` : text;
}

/** What the tasks that made this checkpoint returned. They belong to the checkpoint before. */
function Tasks({ before, threadId }: { before: ThreadState | null; threadId: string }) {
  const tasks = before?.tasks ?? [];
  if (tasks.length === 0) return <p class="muted">{words.noTasks}</p>;
  return (
    <>
      {tasks.map((task) => (
        <section key={task.id} class={`task ${task.error ? "failed" : ""}`}>
          <h4 dir="auto">{task.name} <Id value={task.id} /></h4>
          {task.error && <p class="error" dir="auto">{task.error}</p>}
          {task.interrupts.length > 0 && <JsonView value={task.interrupts} />}
          {task.result !== undefined && task.result !== null && <JsonView value={task.result} />}
          {task.checkpoint?.checkpoint_ns && <Subgraph threadId={threadId} namespace={task.checkpoint.checkpoint_ns} />}
        </section>
      ))}
    </>
  );
}

/** The steps of a subgraph, which has checkpoints of its own below the task. */
function Subgraph({ threadId, namespace }: { threadId: string; namespace: string }) {
  const loaded = useLoaded((abort) => page<ThreadState>(`/threads/${threadId}/history`, { limit: 200, checkpoint: { checkpoint_ns: namespace } }, abort), namespace);
  if (loaded.error) return <Problem error={loaded.error} again={loaded.again} />;
  const states = [...(loaded.value?.items ?? [])].reverse();
  return (
    <details class="subgraph">
      <summary>{words.subgraphSteps(states.length)}</summary>
      {states.map((state, index) => (
        <details key={state.checkpoint?.checkpoint_id}>
          <summary dir="auto">{(states[index - 1]?.next ?? [String(state.metadata?.source ?? "")]).join(", ")}</summary>
          <Changes changes={diffJson((states[index - 1]?.values ?? {}) as Json, state.values as Json)} />
          {state.tasks.some((task) => task.checkpoint?.checkpoint_ns) && <Tasks before={state} threadId={threadId} />}
        </details>
      ))}
    </details>
  );
}

function Fork({ checkpointId, state, conversation, assistant }: { checkpointId: string; state: ThreadState; conversation: Conversation; assistant: Assistant }) {
  const [isEditing, setEditing] = useState(false);
  const [values, setValues] = useState<unknown>(state.values);
  const [breakpoint, setBreakpoint] = useState("");
  const nodes = useLoaded(() => get<{ nodes: { id: string }[] }>(`/assistants/${assistant.assistant_id}/graph`), assistant.assistant_id);
  const pause = breakpoint ? { interrupt_before: [breakpoint] } : {};
  async function fork(update: Record<string, unknown> | null) {
    try {
      let from = checkpointId;
      if (update && Object.keys(update).length > 0) {
        const made = await post<{ checkpoint_id: string }>(`/threads/${conversation.threadId}/state`, { values: update, checkpoint_id: checkpointId });
        from = made.checkpoint_id;
      }
      if (await conversation.runFrom(assistant.assistant_id, from, pause)) setQuery({ run: null, step: null }, { replace: true });
    } catch (error) {
      toast((error as Error).message);
    }
  }
  return (
    <div class="fork">
      {isEditing && (
        <>
          <JsonInput rows={10} value={state.values} onChange={setValues} label={words.values} />
          <p class="muted">{words.editStateHelp}</p>
        </>
      )}
      <div class="buttons">
        {isEditing ? (
          <>
            <button type="button" class="primary" onClick={() => void fork(changedKeys(state.values, values))}>{words.forkWithState}</button>
            <button type="button" onClick={() => setEditing(false)}>{words.cancel}</button>
          </>
        ) : (
          <>
            <button type="button" onClick={() => void fork(null)}>{words.fork}</button>
            <button type="button" onClick={() => setEditing(true)}>{words.editState}</button>
          </>
        )}
        <label class="switch">{words.pauseBefore}
          <select value={breakpoint} onChange={(event) => setBreakpoint(event.currentTarget.value)}>
            <option value="">–</option>
            {(nodes.value?.nodes ?? []).filter((node) => !node.id.startsWith("__")).map((node) => <option key={node.id} value={node.id}>{node.id}</option>)}
          </select>
        </label>
      </div>
    </div>
  );
}

/** The keys whose values were changed. Only these are sent, because reducers add to what is there. */
function changedKeys(before: Record<string, unknown>, after: unknown): Record<string, unknown> {
  if (typeof after !== "object" || after === null) return {};
  return Object.fromEntries(Object.entries(after).filter(([key, value]) => JSON.stringify(before[key]) !== JSON.stringify(value)));
}
