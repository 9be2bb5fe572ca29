/** The list of threads: those that wait for a person first, then by day. */

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { page, send, type Thread } from "./api.ts";
import { textOf } from "./messages.ts";
import { href, navigate, route } from "./router.ts";
import { assistants, changed, changes, may } from "./server-state.ts";
import { Dialog, Empty, Problem, Time, toast, Waiting } from "./ui.tsx";
import { waitingThreads } from "./waiting.tsx";
import { words } from "./words.ts";

const PAGE = 50;
const UNDO_S = 10;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
export const SELECT = ["thread_id", "title", "created_at", "updated_at", "status", "metadata", "interrupts"];
const EXTRACT = { first: "values.messages[0].content" };

export interface ThreadSearch {
  text: string;
  status: string;
  graph: string;
}

/** Threads whose deletion can still be undone. */
const deleted = signal(new Set<string>());

export function titleOf(thread: Thread): string {
  const given = thread.title ?? thread.metadata.title;
  if (typeof given === "string" && given.trim()) return given;
  const first = textOf(thread.extracted?.first).trim().slice(0, 120);
  return first || words.untitled(String(thread.metadata.graph_id ?? ""), thread.thread_id.slice(-6));
}

export function isWaiting(thread: Thread): boolean {
  return thread.status === "interrupted" && Object.keys(thread.interrupts ?? {}).length > 0;
}

function bodyOf(search: ThreadSearch, limit: number): Record<string, unknown> {
  const text = search.text.trim();
  return {
    limit,
    sort_by: "updated_at",
    select: SELECT,
    extract: EXTRACT,
    ...(search.status ? { status: search.status } : {}),
    ...(search.graph ? { metadata: { graph_id: search.graph } } : {}),
    ...(UUID.test(text) ? { ids: [text] } : text ? { query: text } : {}),
  };
}

/** Threads that match. Text is looked for in titles. */
export async function searchThreads(search: ThreadSearch, limit: number, abort?: AbortSignal): Promise<{ threads: Thread[]; total: number }> {
  const text = search.text.trim().toLowerCase();
  const isById = UUID.test(text);
  // An older server ignores `query`. So more threads are read, and filtered here.
  const found = await page<Thread>("/threads/search", bodyOf(search, text && !isById ? Math.max(limit, 200) : limit), abort);
  return { threads: text && !isById ? found.items.filter((thread) => thread.title != null || matches(thread, text)) : found.items, total: found.total };
}

function matches(thread: Thread, text: string): boolean {
  const title = titleOf(thread).toLowerCase();
  return text.split(/\s+/).every((word) => title.includes(word)) || thread.thread_id.includes(text) || JSON.stringify(thread.metadata).toLowerCase().includes(text);
}

/** The threads that wait for a person are in the list however old they are. */
function withWaiting(threads: Thread[], search: ThreadSearch): Thread[] {
  if (search.status || search.text) return threads;
  const ids = new Set(threads.map((thread) => thread.thread_id));
  return [...threads, ...waitingThreads.value.filter((thread) => !ids.has(thread.thread_id) && (!search.graph || thread.metadata.graph_id === search.graph))];
}

interface Group {
  title: string;
  threads: Thread[];
}

function groupsOf(threads: Thread[], now: Date): Group[] {
  const groups = new Map<string, Thread[]>();
  const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const sorted = [...threads].sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1));
  const waiting = sorted.filter(isWaiting);
  if (waiting.length > 0) groups.set(`${words.waitingForYou} (${waiting.length})`, waiting);
  for (const thread of sorted) {
    if (isWaiting(thread)) continue;
    const days = Math.ceil((today - Date.parse(thread.updated_at)) / 86_400_000);
    const title = days <= 0 ? words.today : days === 1 ? words.yesterday : days < 7 ? words.thisWeek : words.older;
    groups.set(title, [...(groups.get(title) ?? []), thread]);
  }
  return [...groups].map(([title, list]) => ({ title, threads: list }));
}

export function ThreadList({ shownId, wide }: { shownId: string; wide: boolean }) {
  const [search, setSearch] = useState<ThreadSearch>({ text: "", status: "", graph: "" });
  const [limit, setLimit] = useState(PAGE);
  const [result, setResult] = useState<{ threads: Thread[]; total: number } | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [selected, setSelected] = useState(new Set<string>());
  const change = changes.value;
  useEffect(() => {
    if (!may("threads.search")) return;
    const abort = new AbortController();
    const timer = setTimeout(() => {
      searchThreads(search, limit, abort.signal).then(
        (found) => {
          setResult(found);
          setError(null);
        },
        (problem: Error) => !abort.signal.aborted && setError(problem),
      );
    // Not for every key that is typed.
    }, search.text ? 200 : 0);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [search, limit, change]);
  const shown = withWaiting(result?.threads ?? [], search).filter((thread) => !deleted.value.has(thread.thread_id));
  return (
    <nav class="threads" aria-label={words.threads}>
      <div class="threads-head">
        <a class="button primary" href={href("")}>{words.newThread}</a>
        <input type="search" id="thread-search" placeholder={words.searchThreads} aria-label={words.searchThreads} value={search.text} onInput={(event) => setSearch({ ...search, text: event.currentTarget.value })} />
        <Filters search={search} onChange={setSearch} />
      </div>
      {selected.size > 0 && (
        <div class="selection">
          <span>{words.selected(selected.size)}</span>
          <button type="button" onClick={() => { removeThreads([...selected], shownId); setSelected(new Set()); }}>{words.remove}</button>
          <button type="button" class="quiet" onClick={() => setSelected(new Set())}>{words.cancel}</button>
        </div>
      )}
      <div class="threads-scroll">
        {error && <Problem error={error} again={changed} />}
        {!may("threads.search") && <p class="muted pad">{words.mayNotList}</p>}
        {!result && !error && may("threads.search") && <Waiting what={words.loading} />}
        {result && shown.length === 0 && !error && (search.text || search.status || search.graph ? <p class="muted pad">{words.noThreadFound}</p> : <Empty title={words.noThreads}><p class="muted">{words.noThreadsHelp}</p></Empty>)}
        {groupsOf(shown, new Date()).map((group) => (
          <section key={group.title}>
            <h2>{group.title}</h2>
            <ul>
              {group.threads.map((thread) => (
                <ThreadRow key={thread.thread_id} thread={thread} isShown={thread.thread_id === shownId} wide={wide} isSelected={selected.has(thread.thread_id)}
                  onSelect={(isOn) => {
                    const next = new Set(selected);
                    if (isOn) next.add(thread.thread_id);
                    else next.delete(thread.thread_id);
                    setSelected(next);
                  }} shownId={shownId} />
              ))}
            </ul>
          </section>
        ))}
        {result && !search.text && result.total > limit && <button type="button" class="quiet pad" onClick={() => setLimit(Math.min(1000, limit + PAGE))}>{words.more(result.total - limit)}</button>}
      </div>
    </nav>
  );
}

function Filters({ search, onChange }: { search: ThreadSearch; onChange: (search: ThreadSearch) => void }) {
  const graphs = [...new Set(assistants.value.map((each) => each.graph_id))];
  return (
    <div class="filters">
      <select aria-label={words.status} value={search.status} onChange={(event) => onChange({ ...search, status: event.currentTarget.value })}>
        <option value="">{words.anyStatus}</option>
        {["interrupted", "busy", "error", "idle"].map((each) => <option key={each} value={each}>{words.statuses[each]}</option>)}
      </select>
      {graphs.length > 1 && (
        <select aria-label={words.graph} value={search.graph} onChange={(event) => onChange({ ...search, graph: event.currentTarget.value })}>
          <option value="">{words.anyGraph}</option>
          {graphs.map((each) => <option key={each} value={each}>{each}</option>)}
        </select>
      )}
    </div>
  );
}

const SIGNS: Record<string, string> = { busy: "●", interrupted: "◐", error: "✕", idle: "○" };

function ThreadRow({ thread, isShown, isSelected, onSelect, shownId, wide }: { thread: Thread; isShown: boolean; isSelected: boolean; onSelect: (isOn: boolean) => void; shownId: string; wide: boolean }) {
  const [isRenaming, setRenaming] = useState(false);
  const title = titleOf(thread);
  const status = thread.status === "interrupted" && !isWaiting(thread) ? "idle" : thread.status;
  return (
    <li class={`thread ${isShown ? "shown" : ""}`}>
      {wide && <input type="checkbox" aria-label={words.select(title)} checked={isSelected} onChange={(event) => onSelect(event.currentTarget.checked)} />}
      <a href={href(`threads/${thread.thread_id}`)} aria-current={isShown ? "page" : undefined}>
        <span class={`sign ${status}`} title={words.statuses[status]} role="img" aria-label={words.statuses[status]}>{SIGNS[status]}</span>
        <span class="title" dir="auto">{title}</span>
        <span class="muted when"><Time iso={thread.updated_at} /></span>
      </a>
      <details class="menu" onBlur={(event) => { if (!event.currentTarget.contains(event.relatedTarget as Node | null)) event.currentTarget.open = false; }}>
        <summary aria-label={words.actionsOf(title)}>⋯</summary>
        <div>
          {may("threads.update") && <button type="button" onClick={() => setRenaming(true)}>{words.rename}</button>}
          {may("threads.read") && may("threads.create") && <button type="button" onClick={() => void copyThread(thread.thread_id)}>{words.copyThread}</button>}
          {may("threads.delete") && <button type="button" onClick={() => removeThreads([thread.thread_id], shownId)}>{words.remove}</button>}
        </div>
      </details>
      {isRenaming && <Rename thread={thread} onClose={() => setRenaming(false)} />}
    </li>
  );
}

function Rename({ thread, onClose }: { thread: Thread; onClose: () => void }) {
  const [title, setTitle] = useState(titleOf(thread));
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.select(), []);
  async function submit(event: Event) {
    event.preventDefault();
    try {
      await send("PATCH", `/threads/${thread.thread_id}`, { body: { metadata: { title: title.trim() } } });
      onClose();
      changed();
    } catch (error) {
      toast((error as Error).message);
    }
  }
  return (
    <Dialog label={words.rename} onClose={onClose}>
      <form onSubmit={submit}>
        <label class="field"><span>{words.title}</span><input ref={input} dir="auto" maxLength={120} value={title} onInput={(event) => setTitle(event.currentTarget.value)} /></label>
        <div class="buttons"><button type="submit" class="primary">{words.rename}</button><button type="button" onClick={onClose}>{words.cancel}</button></div>
      </form>
    </Dialog>
  );
}

export async function copyThread(threadId: string): Promise<void> {
  try {
    const copied = (await (await send("POST", `/threads/${threadId}/copy`)).json()) as Thread;
    changed();
    navigate(`threads/${copied.thread_id}`);
  } catch (error) {
    toast((error as Error).message);
  }
}

/** Takes threads from the list at once, and deletes them after 10 seconds unless that is undone. */
export function removeThreads(ids: string[], shownId: string): void {
  deleted.value = new Set([...deleted.value, ...ids]);
  if (ids.includes(shownId)) navigate("");
  const commit = () => {
    clearTimeout(timer);
    removeEventListener("pagehide", commit);
    for (const id of ids) {
      // `keepalive`: the request must survive the page that is being closed.
      send("DELETE", `/threads/${id}`, { keepalive: true }).catch((error: Error) => {
        restore();
        toast(error.message);
      });
    }
  };
  const restore = () => {
    deleted.value = new Set([...deleted.value].filter((id) => !ids.includes(id)));
    changed();
  };
  const timer = setTimeout(commit, UNDO_S * 1000);
  // Closing the tab does not undo the deletion.
  addEventListener("pagehide", commit);
  const close = toast(words.deleted(ids.length), {
    seconds: UNDO_S,
    action: {
      label: words.undo,
      run: () => {
        clearTimeout(timer);
        removeEventListener("pagehide", commit);
        restore();
        close();
      },
    },
  });
}

export function ThreadsView() {
  return <main class="page"><h1 class="unseen">{words.threads}</h1><ThreadList shownId={route.value.id} wide /></main>;
}
