/** The waiting room: all questions of all threads in one queue, to be gone through by the keyboard. */

import { effect, signal } from "@preact/signals";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { get, needsSignIn, page, post, type Interrupt, type Thread } from "./api.ts";
import { STREAM_MODES } from "./conversation.ts";
import { InterruptCard, isTyping } from "./interrupts.tsx";
import { href, navigate } from "./router.ts";
import { assistants, changed, changes, may } from "./server-state.ts";
import { Empty, Time, toast } from "./ui.tsx";
import { isWaiting, SELECT, titleOf } from "./threads.tsx";
import { words } from "./words.ts";

const MAX_THREADS = 100;
const HIDDEN_EVERY_MS = 30_000;

/** Threads with an open question, the one that has waited longest first. */
export const waitingThreads = signal<Thread[]>([]);

export interface Question {
  thread: Thread;
  interrupt: Interrupt;
}

/** Each open question of these threads. */
export function questionsOf(threads: Thread[]): Question[] {
  return threads.flatMap((thread) => Object.values(thread.interrupts ?? {}).flatMap((list) => list.map((interrupt) => ({ thread, interrupt }))));
}

let reading: AbortController | null = null;

async function read(): Promise<void> {
  reading?.abort();
  const abort = new AbortController();
  reading = abort;
  try {
    const found = await page<Thread>("/threads/search", { status: "interrupted", limit: MAX_THREADS, sort_by: "updated_at", select: SELECT }, abort.signal);
    const waiting = found.items.filter(isWaiting).reverse();
    tell(waiting);
    waitingThreads.value = waiting;
  } catch {
    // The list of threads tells of a server that does not answer.
  }
}

/** Shows a notification for each new question, if the browser was allowed to. */
function tell(waiting: Thread[]): void {
  // Somebody who looks at the page sees the question there.
  if (document.visibilityState === "visible" || !isNotifying()) return;
  const known = new Set(questionsOf(waitingThreads.value).map(({ interrupt }) => interrupt.id));
  for (const { thread, interrupt } of questionsOf(waiting)) {
    if (known.has(interrupt.id)) continue;
    const notification = new Notification(words.waitsForYou, { body: titleOf(thread), tag: interrupt.id });
    notification.onclick = () => {
      focus();
      navigate(`threads/${thread.thread_id}`);
    };
  }
}

function isNotifying(): boolean {
  return "Notification" in globalThis && Notification.permission === "granted";
}

/** Reads the questions again with each change. A hidden tab has no stream, so it looks now and then if it may notify. */
export function watchQuestions(): void {
  effect(() => {
    void changes.value;
    if (!needsSignIn.value && may("threads.search")) void read();
  });
  setInterval(() => {
    if (document.visibilityState === "hidden" && isNotifying() && !needsSignIn.value) void read();
  }, HIDDEN_EVERY_MS);
}

/** Answers a question of any thread. False if somebody else did so before. */
async function answer({ thread, interrupt }: Question, value: unknown): Promise<boolean> {
  // The list may be some seconds old, and another person may have answered.
  const now = await get<Thread>(`/threads/${thread.thread_id}`);
  if (!questionsOf([now]).some((each) => each.interrupt.id === interrupt.id)) return false;
  await post(`/threads/${thread.thread_id}/runs`, {
    assistant_id: thread.metadata.assistant_id ?? thread.metadata.graph_id,
    command: { resume: { [interrupt.id]: value } },
    // Of two answers at once, the second is refused and not queued behind another question.
    multitask_strategy: "reject",
    stream_mode: STREAM_MODES,
    stream_resumable: true,
  });
  return true;
}

export default function WaitingRoom() {
  const [sent, setSent] = useState(new Set<string>());
  const [chosen, setChosen] = useState(0);
  const list = useRef<HTMLOListElement>(null);
  const questions = questionsOf(waitingThreads.value).filter(({ interrupt }) => !sent.has(interrupt.id));
  const at = Math.min(chosen, questions.length - 1);
  const focusAt = (index: number) => {
    setChosen(index);
    list.current?.children[index]?.scrollIntoView({ block: "nearest" });
    (list.current?.children[index] as HTMLElement | undefined)?.focus();
  };
  // Both before the next key, so that each of two quick ones goes a step.
  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (isTyping(event) || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
      const step = { j: 1, k: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      focusAt(Math.max(0, Math.min(questions.length - 1, at + step)));
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
  useLayoutEffect(() => {
    if (document.activeElement === document.body) (list.current?.children[at] as HTMLElement | undefined)?.focus();
  }, [questions.length]);
  async function send(question: Question, value: unknown) {
    setSent((before) => new Set([...before, question.interrupt.id]));
    try {
      if (!(await answer(question, value))) toast(words.answeredElsewhere);
    } catch (error) {
      setSent((before) => new Set([...before].filter((id) => id !== question.interrupt.id)));
      toast((error as Error).message);
    }
    changed();
  }
  return (
    <main class="page">
      <div class="page-head"><h1>{words.views.waiting}</h1><Notify /></div>
      {questions.length === 0 ? <Empty title={words.nothingWaits}><p class="muted">{words.nothingWaitsHelp}</p></Empty> : <p class="muted keyboard">{words.waitingKeys}</p>}
      <ol class="questions" ref={list}>
        {questions.map((question, index) => (
          <QuestionRow key={question.interrupt.id} question={question} isOpen={index === at} onOpen={() => setChosen(index)} onAnswer={(value) => void send(question, value)} />
        ))}
      </ol>
    </main>
  );
}

function QuestionRow({ question, isOpen, onOpen, onAnswer }: { question: Question; isOpen: boolean; onOpen: () => void; onAnswer: (value: unknown) => void }) {
  const { thread, interrupt } = question;
  const graph = assistants.value.find((each) => each.assistant_id === thread.metadata.assistant_id)?.name ?? String(thread.metadata.graph_id ?? "");
  const row = useRef<HTMLLIElement>(null);
  /** Enter goes into the question: to its text field, or else to its first button. */
  const enter = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.target !== row.current) return;
    event.preventDefault();
    onOpen();
    row.current?.querySelector<HTMLElement>("textarea, .buttons button")?.focus();
  };
  return (
    <li class={`question ${isOpen ? "open" : ""}`} ref={row} tabIndex={0} aria-current={isOpen ? "true" : undefined} aria-label={titleOf(thread)} onKeyDown={enter} onFocus={(event) => event.target === row.current && onOpen()}>
      <div class="question-head" onClick={onOpen}>
        <h2><a href={href(`threads/${thread.thread_id}`)} dir="auto">{titleOf(thread)}</a></h2>
        <span class="muted" dir="auto">{graph}</span>
        <span class="muted"><Time iso={thread.updated_at} /></span>
      </div>
      {isOpen && (may("threads.create_run") ? <InterruptCard interrupt={interrupt} isFirst onAnswer={onAnswer} canTakeFocus={false} /> : <p class="muted">{words.mayNotRun}</p>)}
    </li>
  );
}

function Notify() {
  const [state, setState] = useState<string>("Notification" in globalThis ? Notification.permission : "denied");
  if (state === "denied") return null;
  if (state === "granted") return <span class="muted">{words.notifying}</span>;
  return <button type="button" onClick={() => void Notification.requestPermission().then(setState)}>{words.notify}</button>;
}
