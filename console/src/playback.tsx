/** A finished run, played again at its own speed: its messages as they came, and the step that made them. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Run } from "./api.ts";
import { pastEvents } from "./follow.ts";
import type { Step } from "./inspector.tsx";
import { Markdown } from "./markdown.tsx";
import { MessageCollector, textOf, type Message } from "./messages.ts";
import { timesOf, type TimedEvent } from "./timing.ts";
import { Dialog, duration, Problem, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

const SPEEDS = [1, 2, 5, 20];

export function Playback({ run, steps, onClose }: { run: Run; steps: Step[]; onClose: () => void }) {
  const loaded = useLoaded((abort) => pastEvents(run.thread_id, run.run_id, abort), run.run_id);
  const startMs = Date.parse(run.created_at);
  const timed = useMemo(() => timesOf(loaded.value ?? [], steps, startMs), [loaded.value]);
  const endMs = Math.max(1, timed.at(-1)?.atMs ?? 0, ...steps.map((step) => step.endMs - startMs));
  return (
    <Dialog label={words.playback} onClose={onClose} wide>
      <h2>{words.playback}</h2>
      {loaded.error && <Problem error={loaded.error} again={loaded.again} />}
      {!loaded.value && !loaded.error && <Waiting what={words.loading} />}
      {loaded.value && (timed.length === 0 ? <p class="muted">{words.noEvents}</p> : <Player timed={timed} steps={steps} startMs={startMs} endMs={endMs} />)}
      <div class="buttons"><button type="button" onClick={onClose}>{words.close}</button></div>
    </Dialog>
  );
}

function Player({ timed, steps, startMs, endMs }: { timed: TimedEvent[]; steps: Step[]; startMs: number; endMs: number }) {
  const [atMs, setAtMs] = useState(0);
  const [speed, setSpeed] = useState(1);
  const [isPlaying, setPlaying] = useState(true);
  const drawn = useRef(performance.now());
  useEffect(() => {
    if (!isPlaying) return;
    drawn.current = performance.now();
    let frame = requestAnimationFrame(function draw(now: number) {
      const passed = Math.max(0, now - drawn.current) * speed;
      drawn.current = now;
      setAtMs((before) => Math.min(endMs, before + passed));
      frame = requestAnimationFrame(draw);
    });
    return () => cancelAnimationFrame(frame);
  }, [isPlaying, speed, endMs]);
  useEffect(() => {
    if (atMs >= endMs) setPlaying(false);
  }, [atMs >= endMs]);
  const count = timed.filter((each) => each.atMs <= atMs).length;
  // From the beginning each time, because the slider may also go back.
  const messages = useMemo(() => shownBy(timed.slice(0, count)), [timed, count]);
  const step = steps.findLast((each) => each.startMs - startMs <= atMs);
  const play = () => {
    if (atMs >= endMs) setAtMs(0);
    setPlaying(!isPlaying);
  };
  return (
    <>
      <div class="player">
        <button type="button" class="primary" onClick={play}>{isPlaying ? words.pause : words.play}</button>
        <input type="range" aria-label={words.time} min={0} max={Math.ceil(endMs)} value={Math.round(atMs)} onInput={(event) => setAtMs(Number(event.currentTarget.value))} />
        <span class="tabular muted">{duration(atMs)} / {duration(endMs)}</span>
        <select aria-label={words.speed} value={String(speed)} onChange={(event) => setSpeed(Number(event.currentTarget.value))}>{SPEEDS.map((each) => <option key={each} value={String(each)}>{each}×</option>)}</select>
      </div>
      <p class="muted" dir="auto">{step ? step.names.map((name) => words.sources[name] ?? name).join(", ") : ""}</p>
      <div class="played" tabIndex={0} role="region" aria-label={words.conversation}>
        {messages.map((message) => <article key={message.id} class={`message ${message.type}`}><h3>{words.roles[message.type] ?? message.type}</h3><Markdown text={textOf(message.content) || (message.tool_calls ?? []).map((call) => `\`${call.name}\``).join(" ")} /></article>)}
      </div>
    </>
  );
}

function shownBy(timed: TimedEvent[]): Message[] {
  const collector = new MessageCollector();
  for (const { event } of timed) if (event.name === "messages") collector.add((JSON.parse(event.data) as [Message])[0]);
  return collector.list();
}
