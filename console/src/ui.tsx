/** Small parts that all views use. */

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { words } from "./words.ts";

const LOCALE = navigator.language;
const relative = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto", style: "short" });
const exact = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });
const numbers = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 1 });

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];

export function relativeTime(iso: string, now: number): string {
  let amount = (Date.parse(iso) - now) / 1000;
  for (const [unit, size] of STEPS) {
    if (Math.abs(amount) < size) return relative.format(Math.round(amount), unit);
    amount /= size;
  }
  return iso;
}

const clock = signal(Date.now());
setInterval(() => {
  if (document.visibilityState === "visible") clock.value = Date.now();
}, 15_000);

const SKEW_MS = 20_000;

/** How long ago, or how soon. A time of a moment ago is not in the future because the clock here is slow. */
export function Time({ iso }: { iso: string }) {
  const isSoon = Date.parse(iso) - clock.value < SKEW_MS;
  return <time dateTime={iso} title={exact.format(new Date(iso))}>{relativeTime(iso, isSoon ? Math.max(clock.value, Date.parse(iso)) : clock.value)}</time>;
}

export function exactTime(iso: string): string {
  return exact.format(new Date(iso));
}

export function formatNumber(value: number): string {
  return numbers.format(value);
}

export function duration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${numbers.format(milliseconds / 1000)} s`;
  return `${Math.floor(milliseconds / 60_000)} min ${Math.round((milliseconds % 60_000) / 1000)} s`;
}

export function Id({ value }: { value: string }) {
  return (
    <button type="button" class="id" title={`${words.copy} ${value}`} onClick={() => copy(value)}>
      {value.length > 13 ? `${value.slice(0, 4)}…${value.slice(-6)}` : value}
    </button>
  );
}

export function copy(text: string): void {
  // Browsers have no clipboard on pages of plain HTTP from another machine.
  void navigator.clipboard?.writeText(text).then(() => toast(words.copied));
}

interface Toast {
  id: number;
  text: string;
  action?: { label: string; run: () => void };
}

const toasts = signal<Toast[]>([]);
let lastToast = 0;

/** Shows a sentence for some seconds. The returned function takes it away before. */
export function toast(text: string, options: { action?: Toast["action"]; seconds?: number } = {}): () => void {
  const id = ++lastToast;
  toasts.value = [...toasts.value, options.action ? { id, text, action: options.action } : { id, text }];
  const close = () => {
    toasts.value = toasts.value.filter((each) => each.id !== id);
  };
  setTimeout(close, (options.seconds ?? 4) * 1000);
  return close;
}

export function Toasts() {
  return (
    <div class="toasts" role="status">
      {toasts.value.map((each) => (
        <div class="toast" key={each.id}>
          <span dir="auto">{each.text}</span>
          {each.action && <button type="button" onClick={each.action.run}>{each.action.label}</button>}
        </div>
      ))}
    </div>
  );
}

/** Shown only after 150 ms: what comes sooner needs no sign that it is coming. */
export function Waiting({ what }: { what: string }) {
  const [isLate, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), 150);
    return () => clearTimeout(timer);
  }, []);
  return isLate ? <p class="muted waiting" role="status">{what}</p> : null;
}

/** An error, and a button that tries again if that may help. */
export function Problem({ error, again }: { error: Error & { requestId?: string | null; status?: number }; again?: () => void }) {
  return (
    <div class="problem" role="alert">
      <p dir="auto">{error.message}</p>
      {error.requestId && <p class="muted">{words.requestId} <Id value={error.requestId} /></p>}
      {again && error.status !== 403 && <button type="button" onClick={again}>{words.again}</button>}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

export function Dialog({ label, onClose, children, wide }: { label: string; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const dialog = element.current;
    const before = document.activeElement;
    if (dialog && !dialog.open) dialog.showModal();
    return () => {
      // Back to the element that opened the dialog, for people who use the keyboard.
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={element}
      class={wide ? "wide" : ""}
      aria-label={label}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => {
        if (event.target === element.current) onClose();
      }}
    >
      {children}
    </dialog>
  );
}

export function pretty(value: unknown): string {
  return typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
}

const MAX_JSON_CHARS = 100_000;

export function JsonView({ value }: { value: unknown }) {
  const text = JSON.stringify(value, null, 2) ?? "null";
  return (
    <div class="json">
      <button type="button" class="quiet" onClick={() => copy(text)}>{words.copy}</button>
      <pre dir="auto" tabIndex={0}>{text.length > MAX_JSON_CHARS ? `${text.slice(0, MAX_JSON_CHARS)}\n… ${words.cut}` : text}</pre>
    </div>
  );
}

export function Status({ status }: { status: string }) {
  const sign = { running: "●", busy: "●", pending: "◌", interrupted: "◐", error: "✕", timeout: "✕", success: "✓", idle: "○" }[status] ?? "○";
  return <span class={`status ${status}`}><span aria-hidden="true">{sign}</span> {words.statuses[status] ?? status}</span>;
}

/** A request whose result is shown: it is made again if `key` changes, and by the function that is returned. */
export function useLoaded<T>(load: (abort: AbortSignal) => Promise<T>, key: string): { value: T | null; error: Error | null; again: () => void } {
  const [result, setResult] = useState<{ key: string; value: T | null; error: Error | null }>({ key, value: null, error: null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    load(abort.signal).then(
      // An answer to an older key must not replace that of the present one.
      (value) => !abort.signal.aborted && setResult({ key, value, error: null }),
      (error: Error) => !abort.signal.aborted && setResult((before) => ({ key, value: before.key === key ? before.value : null, error })),
    );
    return () => abort.abort();
  }, [key, round]);
  const isCurrent = result.key === key;
  return { value: isCurrent ? result.value : null, error: isCurrent ? result.error : null, again: () => setRound((before) => before + 1) };
}

/** Calls a function now and then while the tab is seen. */
export function useInterval(run: () => void, milliseconds: number): void {
  const latest = useRef(run);
  // The interval is not started anew for each drawing, but calls the newest function.
  latest.current = run;
  useEffect(() => {
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") latest.current();
    }, milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}
