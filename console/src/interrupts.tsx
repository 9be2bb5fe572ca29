/** Questions of a graph to a person: the two known forms, and any other value. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Interrupt } from "./api.ts";
import { JsonInput } from "./form.tsx";
import { Markdown } from "./markdown.tsx";
import { JsonView, pretty } from "./ui.tsx";
import { words } from "./words.ts";

interface Action {
  name: string;
  args: Record<string, unknown>;
  description: string;
  allowed: string[];
}

type Decision = Record<string, unknown>;
type Form = "review" | "inbox" | "other";
/** The form that is open in a card, if one is. */
type Mode = "" | "edit" | "reject" | "respond";

/** What is asked for, in one form. LangChain's middleware and the older agent inbox differ in names only. */
export function actionsOf(value: unknown): { form: Form; actions: Action[] } {
  const review = value as { action_requests?: unknown; review_configs?: unknown } | null;
  if (typeof value === "object" && value !== null && Array.isArray(review?.action_requests)) return { form: "review", actions: reviewActions(review) };
  const list = Array.isArray(value) ? value : [value];
  const isInbox = list.length > 0 && list.every((each) => typeof each === "object" && each !== null && typeof (each as { action_request?: unknown }).action_request === "object");
  return isInbox ? { form: "inbox", actions: list.map(inboxAction) } : { form: "other", actions: [] };
}

function reviewActions(value: { action_requests?: unknown; review_configs?: unknown }): Action[] {
  const configs = (Array.isArray(value.review_configs) ? value.review_configs : []) as { action_name?: string; allowed_decisions?: string[] }[];
  return (value.action_requests as { name?: string; args?: Record<string, unknown>; description?: string }[]).map((request) => ({
    name: String(request.name ?? ""),
    args: request.args ?? {},
    description: String(request.description ?? ""),
    allowed: configs.find((config) => config.action_name === request.name)?.allowed_decisions ?? ["approve", "edit", "reject"],
  }));
}

function inboxAction(each: unknown): Action {
  const { action_request: request, config = {}, description } = each as { action_request: { action?: string; args?: Record<string, unknown> }; config?: Record<string, boolean>; description?: string };
  const names: Record<string, string> = { allow_accept: "approve", allow_edit: "edit", allow_respond: "respond", allow_ignore: "ignore" };
  return {
    name: String(request.action ?? ""),
    args: request.args ?? {},
    description: String(description ?? ""),
    allowed: Object.entries(names).filter(([flag]) => config[flag]).map(([, name]) => name),
  };
}

/** A decision in the words of the older form. */
function inboxDecision(decision: Decision, action: Action): Decision {
  if (decision.type === "approve") return { type: "accept", args: { action: action.name, args: action.args } };
  if (decision.type === "edit") return { type: "edit", args: { action: action.name, args: (decision.edited_action as { args: unknown }).args } };
  if (decision.type === "respond") return { type: "response", args: decision.message };
  return { type: "ignore", args: null };
}

export function InterruptCard({ interrupt, onAnswer, isFirst, canTakeFocus = true }: { interrupt: Interrupt; onAnswer: (answer: unknown) => void; isFirst: boolean; canTakeFocus?: boolean }) {
  const { form, actions } = actionsOf(interrupt.value);
  const [decisions, setDecisions] = useState<(Decision | null)[]>(actions.map(() => null));
  const [modes, setModes] = useState<Mode[]>(actions.map((action) => (takesWordsOnly(action) ? "respond" : "")));
  const [isSent, setSent] = useState(false);
  // The decisions as they are now: a second key may come before the page is drawn with the first.
  const decided = useRef(decisions);
  function answer(value: unknown) {
    setSent(true);
    onAnswer(value);
  }
  function decide(index: number, decision: Decision) {
    // A second click or key must not change what was decided.
    if (decided.current[index] !== null) return;
    const next = decided.current.map((each, at) => (at === index ? decision : each));
    decided.current = next;
    setDecisions(next);
    // The graph is resumed once, with the decisions on all of its actions.
    if (next.some((each) => each === null)) return;
    answer(form === "review" ? { decisions: next } : next.map((each, at) => inboxDecision(each as Decision, actions[at] as Action)));
  }
  const setMode = (index: number, mode: Mode) => setModes((before) => before.map((each, at) => (at === index ? mode : each)));
  function choose(index: number, name: string) {
    if (!actions[index]?.allowed.includes(name)) return;
    if (name === "approve" || name === "ignore") decide(index, { type: name });
    else setMode(index, name as Mode);
  }
  useDecisionKeys(isFirst && !isSent, (name) => choose(decided.current.indexOf(null), name));
  if (form === "other") return <OtherCard value={interrupt.value} onAnswer={answer} isSent={isSent} canTakeFocus={canTakeFocus} />;
  return (
    <>
      {actions.map((action, index) => (
        <ActionCard key={index} action={action} decision={decisions[index] ?? null} mode={modes[index] ?? ""} isSent={isSent} isNext={isFirst && decisions.indexOf(null) === index}
          canTakeFocus={canTakeFocus} place={actions.length > 1 ? `${index + 1}/${actions.length}` : ""} onDecide={(decision) => decide(index, decision)}
          onChoose={(name) => choose(index, name)} onCancel={() => setMode(index, "")} />
      ))}
    </>
  );
}

const KEYS: Record<string, string> = { a: "approve", e: "edit", r: "reject", w: "respond", i: "ignore" };
const SHORTCUTS: Record<string, string> = { approve: "a", edit: "e", reject: "r", respond: "w", ignore: "i" };

/** Whether a key is typed into something that takes text. */
export function isTyping(event: KeyboardEvent): boolean {
  const target = event.target;
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

/** Whether nobody is writing: the focus is nowhere, or in a message box that is empty. */
function isIdle(): boolean {
  const active = document.activeElement;
  return active === document.body || active === null || (active instanceof HTMLTextAreaElement && active.value === "");
}

/** Whether the focus is on a card that stands before this one. */
function isAtDecided(section: HTMLElement | null): boolean {
  const active = document.activeElement?.closest(".interrupt");
  return !!active && !!section && active !== section && (active.compareDocumentPosition(section) & Node.DOCUMENT_POSITION_FOLLOWING) !== 0;
}

/** Whether an element is a question, one of the waiting room, or the conversation that holds it. */
function isAtQuestion(target: EventTarget | null): boolean {
  return target instanceof Element && (target.closest(".interrupt, .question") !== null || target.matches(".log"));
}

/** Tells of each decision's key that is pressed in a question, and of none that is typed, held down, or pressed elsewhere. */
function useDecisionKeys(isOn: boolean, onName: (name: string) => void): void {
  // Before the next key, as all that moves the focus here: an effect after the drawing comes too late for a quick hand.
  useLayoutEffect(() => {
    if (!isOn) return;
    const onKey = (event: KeyboardEvent) => {
      const name = KEYS[event.key];
      if (!name || event.repeat || event.metaKey || event.ctrlKey || event.altKey) return;
      if (isTyping(event) || !isAtQuestion(event.target) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      onName(name);
    };
    // While it is captured, because the page's own keys leave alone what was taken here.
    addEventListener("keydown", onKey, true);
    return () => removeEventListener("keydown", onKey, true);
  });
}

/** Whether an action takes words and has nothing that could be edited instead. */
function takesWordsOnly(action: Action): boolean {
  return action.allowed.includes("respond") && !action.allowed.includes("edit");
}

interface ActionProps {
  action: Action;
  decision: Decision | null;
  mode: Mode;
  isSent: boolean;
  isNext: boolean;
  canTakeFocus: boolean;
  place: string;
  onDecide: (decision: Decision) => void;
  onChoose: (name: string) => void;
  onCancel: () => void;
}

function ActionCard({ action, decision, mode, isSent, isNext, canTakeFocus, place, onDecide, onChoose, onCancel }: ActionProps) {
  const onlyWords = takesWordsOnly(action);
  const isOpen = decision === null && !isSent;
  const section = useRef<HTMLElement>(null);
  const isFirstView = useRef(true);
  useLayoutEffect(() => {
    // A card that follows another takes over the focus that the other has, or lost with its button.
    if (isNext && !onlyWords && (canTakeFocus || !isFirstView.current) && (isIdle() || isAtDecided(section.current))) section.current?.focus();
    isFirstView.current = false;
  }, [isNext]);
  return (
    <section class="interrupt" ref={section} tabIndex={-1} aria-label={words.wantsAnswer(action.name)}>
      <h2><span dir="auto">{words.wantsAnswer(action.name)}</span> <span class="muted">{place}</span></h2>
      {action.description && action.description !== action.name && <Markdown text={action.description} />}
      {mode !== "edit" && <Arguments args={action.args} description={action.description} />}
      {decision !== null ? (
        <p class="muted">{words.decided[String(decision.type)]}</p>
      ) : (
        <>
          {mode === "edit" && <EditForm args={action.args} onCancel={onCancel} onDone={(args) => onDecide({ type: "edit", edited_action: { name: action.name, args } })} />}
          {(mode === "reject" || mode === "respond") && (
            <WordsForm kind={mode} takesFocus={canTakeFocus || mode !== "respond" || !onlyWords} canCancel={!onlyWords} onCancel={onCancel} onDone={(message) => onDecide(message || mode === "respond" ? { type: mode, message } : { type: mode })} />
          )}
          <div class="buttons">
            {action.allowed.filter((name) => name !== mode && words.decisions[name]).map((name) => (
              <button key={name} type="button" disabled={!isOpen} class={name === "approve" && mode === "" ? "primary" : ""} onClick={() => onChoose(name)}>
                {words.decisions[name]} <kbd>{SHORTCUTS[name]}</kbd>
              </button>
            ))}
          </div>
        </>
      )}
    </section>
  );
}

function Arguments({ args, description }: { args: Record<string, unknown>; description: string }) {
  const entries = Object.entries(args).filter(([, value]) => value !== description);
  if (entries.length === 0) return null;
  return (
    <dl class="arguments">
      {entries.map(([name, value]) => (
        <div key={name}><dt>{name}</dt><dd dir="auto">{pretty(value)}</dd></div>
      ))}
    </dl>
  );
}

function EditForm({ args, onDone, onCancel }: { args: Record<string, unknown>; onDone: (args: Record<string, unknown>) => void; onCancel: () => void }) {
  const [values, setValues] = useState(args);
  return (
    <form onSubmit={(event) => { event.preventDefault(); onDone(values); }}>
      {Object.entries(args).map(([name, value], index) => (
        <label class="field" key={name}>
          <span>{name}</span>
          {typeof value === "string" ? (
            <AutoFocus when={index === 0} rows={value.length > 60 ? 4 : 1} value={String(values[name] ?? "")} onText={(text) => setValues({ ...values, [name]: text })} />
          ) : (
            <JsonInput value={value} rows={2} onChange={(next) => setValues({ ...values, [name]: next })} />
          )}
        </label>
      ))}
      <div class="buttons"><button type="submit" class="primary">{words.sendEdited}</button><button type="button" onClick={onCancel}>{words.cancel}</button></div>
    </form>
  );
}

function AutoFocus({ when, rows, value, onText, label }: { when: boolean; rows: number; value: string; onText: (text: string) => void; label?: string }) {
  const element = useRef<HTMLTextAreaElement>(null);
  // Before the next key: it is typed right after the one that opened this.
  useLayoutEffect(() => {
    if (when) element.current?.focus();
  }, []);
  return <textarea ref={element} rows={rows} dir="auto" aria-label={label} value={value} onInput={(event) => onText(event.currentTarget.value)} />;
}

function WordsForm({ kind, takesFocus, canCancel, onDone, onCancel }: { kind: "reject" | "respond"; takesFocus: boolean; canCancel: boolean; onDone: (text: string) => void; onCancel: () => void }) {
  const [text, setText] = useState("");
  return (
    <form
      onSubmit={(event) => { event.preventDefault(); onDone(text); }}
      onKeyDown={(event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); onDone(text); }
      }}>
      <AutoFocus when={takesFocus} rows={2} value={text} onText={setText} label={kind === "reject" ? words.whyNot : words.yourAnswer} />
      <div class="buttons">
        <button type="submit" class="primary" disabled={kind === "respond" && text === ""}>{kind === "reject" ? words.sendRefusal : words.sendAnswer}</button>
        {canCancel && <button type="button" onClick={onCancel}>{words.cancel}</button>}
      </div>
    </form>
  );
}

function OtherCard({ value, onAnswer, isSent, canTakeFocus }: { value: unknown; onAnswer: (answer: unknown) => void; isSent: boolean; canTakeFocus: boolean }) {
  const [text, setText] = useState("");
  const [isJson, setJson] = useState(false);
  const [error, setError] = useState("");
  function submit(event: Event) {
    event.preventDefault();
    try {
      onAnswer(isJson ? JSON.parse(text) : text);
    } catch (problem) {
      setError((problem as Error).message);
    }
  }
  return (
    <section class="interrupt" aria-label={words.graphAsks}>
      <h2>{words.graphAsks}</h2>
      {typeof value === "string" ? <Markdown text={value} /> : <JsonView value={value} />}
      <form onSubmit={submit} onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !isJson) submit(event); }}>
        <AutoFocus when={canTakeFocus} rows={2} value={text} onText={setText} label={words.yourAnswer} />
        {error && <small class="error" role="alert">{words.notJson} {error}</small>}
        <div class="buttons">
          <button type="submit" class="primary" disabled={isSent}>{words.sendAnswer}</button>
          <label class="switch"><input type="checkbox" checked={isJson} onChange={(event) => setJson(event.currentTarget.checked)} /> {words.asJson}</label>
        </div>
      </form>
    </section>
  );
}
