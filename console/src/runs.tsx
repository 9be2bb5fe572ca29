/** Runs over all threads: what goes on, what failed, how long it took, and a button that stops it. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, FINAL, get, page, post, send, type Run, type Thread } from "./api.ts";
import { href, route, setQuery } from "./router.ts";
import { assistants, changed, changes, may } from "./server-state.ts";
import { duration, Empty, Id, Problem, Status, Time, toast, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

const PAGE = 50;
const THREADS = 25;

/** Runs of all threads, newest first. A server without that route is asked thread by thread. */
async function searchRuns(status: string, assistantId: string, limit: number, abort: AbortSignal): Promise<Run[]> {
  const body = { limit, ...(status ? { status } : {}), ...(assistantId ? { assistant_id: assistantId } : {}) };
  try {
    return (await page<Run>("/runs/search", body, abort)).items;
  } catch (error) {
    if (!(error instanceof ApiError && (error.status === 404 || error.status === 405))) throw error;
  }
  const threads = await post<Thread[]>("/threads/search", { limit: THREADS, sort_by: "updated_at", select: ["thread_id"] }, abort);
  const query = status ? `?limit=10&status=${status}` : "?limit=10";
  const runs = await Promise.all(threads.map((thread) => get<Run[]>(`/threads/${thread.thread_id}/runs${query}`, abort).catch(() => [])));
  return runs.flat().filter((run) => !assistantId || run.assistant_id === assistantId).sort((a, b) => (a.created_at < b.created_at ? 1 : -1)).slice(0, limit);
}

export default function Runs() {
  const { query } = route.value;
  const status = query.get("status") ?? "";
  const assistant = query.get("assistant") ?? "";
  const [limit, setLimit] = useState(PAGE);
  const [isPaused, setPaused] = useState(false);
  const [runs, setRuns] = useState<Run[] | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [selected, setSelected] = useState(new Set<string>());
  const change = isPaused ? -1 : changes.value;
  useEffect(() => {
    if (isPaused && runs) return;
    const abort = new AbortController();
    searchRuns(status, assistant, limit, abort.signal).then((found) => { setRuns(found); setError(null); }, (problem: Error) => !abort.signal.aborted && setError(problem));
    return () => abort.abort();
  }, [status, assistant, limit, change]);
  const open = (runs ?? []).filter((run) => !FINAL.has(run.status));
  async function cancel(list: Run[]) {
    // A run that has ended meanwhile must not keep the others from being cancelled.
    const results = await Promise.allSettled(list.map((run) => send("POST", `/threads/${run.thread_id}/runs/${run.run_id}/cancel?action=interrupt`)));
    toast(words.canceled(results.filter((each) => each.status === "fulfilled").length));
    setSelected(new Set());
    changed();
  }
  return (
    <main class="page">
      <div class="page-head">
        <h1>{words.views.runs}</h1>
        <select aria-label={words.status} value={status} onChange={(event) => setQuery({ status: event.currentTarget.value || null }, { replace: true })}>
          <option value="">{words.anyStatus}</option>
          {["pending", "running", "success", "error", "timeout", "interrupted"].map((each) => <option key={each} value={each}>{words.statuses[each]}</option>)}
        </select>
        <select aria-label={words.assistant} value={assistant} onChange={(event) => setQuery({ assistant: event.currentTarget.value || null }, { replace: true })}>
          <option value="">{words.anyAssistant}</option>
          {assistants.value.map((each) => <option key={each.assistant_id} value={each.assistant_id}>{each.name}</option>)}
        </select>
        <button type="button" aria-pressed={isPaused} onClick={() => setPaused(!isPaused)}>{isPaused ? words.goLive : words.pause}</button>
        {selected.size > 0 && <button type="button" onClick={() => void cancel(open.filter((run) => selected.has(run.run_id)))}>{words.cancelRuns(selected.size)}</button>}
      </div>
      {error && <Problem error={error} again={changed} />}
      {!runs && !error && <Waiting what={words.loading} />}
      {runs?.length === 0 && <Empty title={words.noRuns}><p class="muted">{words.noRunsHelp}</p></Empty>}
      {runs && runs.length > 0 && (
        <div class="table-scroll" tabIndex={0} role="region" aria-label={words.views.runs}>
          <table>
            <thead><tr><th><span class="unseen">{words.selection}</span></th><th>{words.status}</th><th>{words.assistant}</th><th>{words.run}</th><th>{words.thread}</th><th>{words.started}</th><th class="number">{words.took}</th><th><span class="unseen">{words.action}</span></th></tr></thead>
            <tbody>{runs.map((run) => <RunRow key={run.run_id} run={run} isSelected={selected.has(run.run_id)} onCancel={() => void cancel([run])} onSelect={(isOn) => {
              const next = new Set(selected);
              if (isOn) next.add(run.run_id);
              else next.delete(run.run_id);
              setSelected(next);
            }} />)}</tbody>
          </table>
        </div>
      )}
      {runs && runs.length >= limit && <button type="button" class="quiet" onClick={() => setLimit(limit + PAGE)}>{words.showMore}</button>}
    </main>
  );
}

function RunRow({ run, isSelected, onSelect, onCancel }: { run: Run; isSelected: boolean; onSelect: (isOn: boolean) => void; onCancel: () => void }) {
  const isOpen = !FINAL.has(run.status);
  const mayCancel = isOpen && may("threads.update");
  const tookMs = (isOpen ? Date.now() : Date.parse(run.updated_at)) - Date.parse(run.created_at);
  return (
    <tr>
      <td>{mayCancel && <input type="checkbox" aria-label={words.select(run.run_id)} checked={isSelected} onChange={(event) => onSelect(event.currentTarget.checked)} />}</td>
      <td><Status status={run.status} /></td>
      <td dir="auto">{assistants.value.find((each) => each.assistant_id === run.assistant_id)?.name ?? String(run.metadata.graph_id ?? "")}</td>
      <td><Id value={run.run_id} /></td>
      <td><a href={href(`threads/${run.thread_id}?inspect=1&run=${run.run_id}`)}>{words.open}</a> <Id value={run.thread_id} /></td>
      <td><Time iso={run.created_at} /></td>
      <td class="tabular number">{duration(tookMs)}</td>
      <td>{mayCancel && <button type="button" class="quiet" onClick={onCancel}>{words.cancel}</button>}</td>
    </tr>
  );
}
