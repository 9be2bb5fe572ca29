/** The page: its frame, the views in it, and the keys that work everywhere. */

import { signal } from "@preact/signals";
import "@preact/signals";
import { render, type ComponentType } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { needsSignIn, type Assistant } from "./api.ts";
import Assistants from "./assistants.tsx";
import { Chat } from "./chat.tsx";
import { Conversation } from "./conversation.ts";
import { exportThread, type ExportFormat } from "./export.ts";
import { Icon } from "./icons.tsx";
import { Inspector } from "./inspector.tsx";
import { newId } from "./ids.ts";
import { isTyping } from "./interrupts.tsx";
import Compare from "./compare.tsx";
import Crons from "./crons.tsx";
import { KeyboardHelp, Palette, type Command } from "./palette.tsx";
import { Requests } from "./requests.tsx";
import Runs from "./runs.tsx";
import Server from "./server.tsx";
import Store from "./store.tsx";
import { href, navigate, route, setQuery, start } from "./router.ts";
import { assistants, caller, changed, changes, info, isReachable, isTouched, may, readAll, signOut, watchChanges } from "./server-state.ts";
import { SignIn } from "./sign-in.tsx";
import { ThreadList, ThreadsView } from "./threads.tsx";
import { Toasts, Waiting } from "./ui.tsx";
import WaitingRoom, { questionsOf, waitingThreads, watchQuestions } from "./waiting.tsx";
import { words } from "./words.ts";

type Theme = "auto" | "light" | "dark";

const theme = signal<Theme>((localStorage.getItem("theme") as Theme | null) ?? "auto");
const isReady = signal(false);

function showTheme(): void {
  document.documentElement.dataset.theme = theme.value;
}

function nextTheme(): void {
  const order: Theme[] = ["auto", "light", "dark"];
  theme.value = order[(order.indexOf(theme.value) + 1) % order.length] as Theme;
  if (theme.value === "auto") localStorage.removeItem("theme");
  else localStorage.setItem("theme", theme.value);
  showTheme();
}

let current: Conversation | null = null;
/** The thread of `current`: parts that were drawn before it was there are drawn again. */
const currentId = signal("");

function tellCurrent(): void {
  // After the drawing that called this: a signal must not change while it is being drawn.
  queueMicrotask(() => {
    currentId.value = current?.threadId ?? "";
  });
}

/** The conversation of a thread: the one that is shown already, if it is of the same thread. */
function conversationOf(threadId: string): Conversation {
  // The first message navigates to the thread's address, and its conversation goes on there.
  if (current?.threadId === threadId && !current.isClosed) return current;
  current?.close();
  current = new Conversation(threadId, changed);
  tellCurrent();
  void current.load();
  return current;
}

/** A thread that begins with its first message. */
function newConversation(): Conversation {
  if (current && !current.isClosed && current.thread.value === null && current.runs.value.length === 0 && current.isLoading.value === false && !current.loadError.value) return current;
  current?.close();
  current = new Conversation(newId(), changed);
  tellCurrent();
  current.isLoading.value = false;
  return current;
}

type DialogName = "" | "palette" | "help" | "requests";

function Frame() {
  const [dialog, setDialog] = useState<DialogName>("");
  const { view } = route.value;
  const actions: Command[] = [
    { label: words.theme[theme.value] as string, hint: words.action, run: nextTheme },
    { label: words.toggleInspector, hint: "i", run: toggleInspector },
    { label: words.help, hint: "?", run: () => setDialog("help") },
    { label: words.compareAssistants, hint: words.action, run: () => navigate("compare") },
    { label: words.requestsTitle, hint: words.action, run: () => setDialog("requests") },
    ...exportCommands(),
    ...(caller.value?.identity ? [{ label: words.signOut, hint: words.action, run: () => void signOut() }] : []),
  ];
  useKeys(setDialog);
  const waiting = questionsOf(waitingThreads.value).length;
  useEffect(() => {
    document.title = `${waiting > 0 ? `(${waiting}) ` : ""}${words.views[view] ?? words.product} · ${words.product}`;
  }, [view, waiting]);
  if (needsSignIn.value) return <SignIn />;
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>{words.skip}</a>
      <Header onPalette={() => setDialog("palette")} onHelp={() => setDialog("help")} />
      {!isReachable.value && <p class="offline" role="alert">{words.unreachable}</p>}
      <div class="content" id="content" tabIndex={-1}>{isReady.value ? <View /> : <Waiting what={words.loading} />}</div>
      {dialog === "palette" && <Palette actions={actions} onClose={() => setDialog("")} />}
      {dialog === "help" && <KeyboardHelp onClose={() => setDialog("")} />}
      {dialog === "requests" && <Requests onClose={() => setDialog("")} />}
      <Toasts />
    </>
  );
}

/** Files of the thread that is shown. */
function exportCommands(): Command[] {
  const shown = isThread() ? current : null;
  if (!shown) return [];
  const formats: ExportFormat[] = ["html", "md", "json"];
  return formats.map((format) => ({ label: words.saveAs[format], hint: words.action, run: () => exportThread(String(shown.thread.value?.metadata.title ?? shown.title()), shown.messages.value, format) }));
}

function toggleInspector(): void {
  const isOpen = ["inspect", "run", "step"].some((name) => route.value.query.has(name));
  setQuery({ inspect: isOpen ? null : "1", step: null, run: null }, { replace: true });
}

function useKeys(setDialog: (update: (before: DialogName) => DialogName) => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      // A question or a dialog has used this key.
      if (event.defaultPrevented) return;
      const hasControl = event.ctrlKey || event.metaKey;
      if (hasControl && event.key.toLowerCase() === "k") { event.preventDefault(); setDialog((before) => (before === "palette" ? "" : "palette")); }
      else if (hasControl && event.shiftKey && event.key.toLowerCase() === "o") { event.preventDefault(); navigate(""); }
      else if (event.key === "Escape" && !document.querySelector("dialog[open]") && current?.live.value) void current.stop();
      else if (!isTyping(event) && !hasControl && !event.altKey && !document.querySelector("dialog[open]")) plainKey(event, () => setDialog(() => "help"));
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

function plainKey(event: KeyboardEvent, showHelp: () => void): void {
  const actions: Record<string, () => void> = {
    "?": showHelp,
    "/": () => document.getElementById("thread-search")?.focus(),
    m: () => document.getElementById("message")?.focus(),
    i: toggleInspector,
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function Header({ onPalette, onHelp }: { onPalette: () => void; onHelp: () => void }) {
  const { view } = route.value;
  const shown = view === "threads" && route.value.id !== "" ? "" : view;
  const waiting = questionsOf(waitingThreads.value).length;
  return (
    <header class="header">
      <div class="bar">
        <a class="brand" href={href("")}>{words.product}</a>
        <AssistantChoice />
        <button type="button" class="find" onClick={onPalette} aria-keyshortcuts="Control+K"><span>{words.find}</span> <kbd>Ctrl K</kbd></button>
        <Load />
        {caller.value?.identity && <span class="who muted" dir="auto">{caller.value.display_name || caller.value.identity}</span>}
        {isThread() && <button type="button" class="quiet" aria-label={words.toggleInspector} title={`${words.toggleInspector} (i)`} onClick={toggleInspector}><Icon name="side" /></button>}
        <button type="button" class="quiet keyboard" aria-label={words.theme[theme.value]} title={words.theme[theme.value]} onClick={nextTheme}><Icon name={theme.value} /></button>
        <button type="button" class="quiet keyboard" aria-label={words.help} title={words.help} onClick={onHelp}>?</button>
        {caller.value?.identity && <button type="button" class="quiet" onClick={() => void signOut()}>{words.signOut}</button>}
      </div>
      <nav aria-label={words.menu} class="views">
        {Object.entries(words.views).filter(([name]) => isOffered(name)).map(([name, label]) => (
          <a key={name} href={href(name)} aria-current={shown === name ? "page" : undefined}>{label}{name === "waiting" && waiting > 0 && <> <span class="badge">{waiting}</span></>}</a>
        ))}
      </nav>
    </header>
  );
}

function Load() {
  const load = info.value;
  if (!load) return null;
  return (
    <a class="load tabular" href={href("server")}>
      <span class={`dot ${isReachable.value ? "good" : "bad"}`} aria-hidden="true">●</span> {words.slots(load.load.running, load.limits.run_slots)}
      {load.load.waiting > 0 && <span> · {words.waitingRuns(load.load.waiting)}</span>}
    </a>
  );
}

/** The assistant of the thread that is shown, or the one that a new thread gets. */
function shownAssistant(): Assistant | null {
  const { query } = route.value;
  const thread = isThread() ? current?.thread.value : null;
  const run = isThread() ? current?.runs.value[0] : null;
  const id = query.get("assistant") ?? (thread?.metadata.assistant_id as string | undefined) ?? run?.assistant_id;
  const graph = thread?.metadata.graph_id;
  return assistants.value.find((each) => each.assistant_id === id || each.graph_id === id) ?? assistants.value.find((each) => each.graph_id === graph) ?? assistants.value[0] ?? null;
}

function isThread(): boolean {
  return currentId.value !== "" && route.value.view === "threads" && route.value.id !== "";
}

function AssistantChoice() {
  if (assistants.value.length < 2 || !["", "threads"].includes(route.value.view)) return null;
  return (
    <select class="assistant" aria-label={words.assistant} value={shownAssistant()?.assistant_id ?? ""} onChange={(event) => setQuery({ assistant: event.currentTarget.value }, { replace: true })}>
      {assistants.value.map((each) => <option key={each.assistant_id} value={each.assistant_id}>{each.name}{each.name === each.graph_id ? "" : ` (${each.graph_id})`}</option>)}
    </select>
  );
}

function View() {
  const { view, id } = route.value;
  if (view === "" || (view === "threads" && id !== "")) return <ChatView />;
  if (view === "threads") return <ThreadsView />;
  if (!isOffered(view)) return <main class="page"><h1>{words.views[view]}</h1><p class="muted">{words.mayNotSee}</p></main>;
  const Part = PARTS[view];
  return Part ? <Part /> : <main class="page"><h1>{words.noSuchView}</h1></main>;
}

/** What a caller must be allowed to, so that a view shows anything. */
const NEEDED: Record<string, string> = { waiting: "threads.search", runs: "threads.search", assistants: "assistants.search", crons: "crons.search", store: "store.search" };

function isOffered(view: string): boolean {
  return NEEDED[view] === undefined || may(NEEDED[view]);
}

const PARTS: Record<string, ComponentType> = { waiting: WaitingRoom, compare: Compare, runs: Runs, assistants: Assistants, crons: Crons, store: Store, server: Server };

function ChatView() {
  const { id } = route.value;
  const conversation = useMemo(() => (id ? conversationOf(id) : newConversation()), [id]);
  const hasSide = id !== "" && ["inspect", "run", "step"].some((name) => route.value.query.has(name));
  const change = changes.value;
  useEffect(() => {
    if (!id || conversation.live.value || conversation.isLoading.value || !isTouched(conversation.threadId)) return;
    void conversation.refresh().catch(() => undefined);
  }, [change]);
  return (
    <main class={`panes ${hasSide ? "with-side" : ""}`}>
      <ThreadList shownId={id} wide={false} />
      <Chat key={id || "new"} conversation={conversation} assistant={shownAssistant()} isNew={id === ""} />
      {hasSide && <Inspector conversation={conversation} assistant={shownAssistant()} />}
    </main>
  );
}

showTheme();
start();
render(<Frame />, document.getElementById("app") as HTMLElement);
void readAll().finally(() => {
  isReady.value = true;
  watchQuestions();
  void watchChanges();
});
