/** Crons: when they fire next, and the switches that pause, run and delete them. */

import type { Cron } from "./api-types.ts";
import { useState } from "preact/hooks";
import { post, send, type Run } from "./api.ts";
import { nextTimes } from "./cron.ts";
import { JsonInput } from "./form.tsx";
import { href, navigate } from "./router.ts";
import { assistants, changed, changes, may } from "./server-state.ts";
import { Empty, exactTime, Id, JsonView, Problem, Time, toast, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

const TIMES = 5;

export default function Crons() {
  const loaded = useLoaded((abort) => post<Cron[]>("/runs/crons/search", { limit: 200, sort_by: "next_run_date", sort_order: "asc" }, abort), String(changes.value));
  const [last, setLast] = useState<Cron[] | null>(null);
  if (loaded.value && loaded.value !== last) setLast(loaded.value);
  const crons = loaded.value ?? last;
  return (
    <main class="page">
      <h1>{words.views.crons}</h1>
      {loaded.error && <Problem error={loaded.error} again={loaded.again} />}
      {!crons && !loaded.error && <Waiting what={words.loading} />}
      {crons?.length === 0 && <Empty title={words.noCrons}><p class="muted">{words.noCronsHelp}</p></Empty>}
      <ul class="cards">{crons?.map((cron) => <CronCard key={cron.cron_id} cron={cron} />)}</ul>
      {may("crons.create") && <NewCron />}
    </main>
  );
}

async function attempt(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
    changed();
  } catch (error) {
    toast((error as Error).message);
  }
}

function CronCard({ cron }: { cron: Cron }) {
  const zone = cron.timezone ?? "UTC";
  const name = assistants.value.find((each) => each.assistant_id === cron.assistant_id)?.name ?? cron.assistant_id;
  const times = cron.enabled ? nextTimes(cron.schedule, zone, Date.now(), TIMES) : [];
  async function runNow() {
    const { schedule: _schedule, timezone: _zone, end_time: _end, enabled: _enabled, on_run_completed: _completed, ...body } = cron.payload;
    const threadId = cron.thread_id ?? (await post<{ thread_id: string }>("/threads", {})).thread_id;
    const run = await post<Run>(`/threads/${threadId}/runs`, { ...body, assistant_id: cron.assistant_id });
    navigate(`threads/${run.thread_id}`);
  }
  return (
    <li class="card">
      <div class="page-head">
        <h2><code>{cron.schedule}</code></h2><span class="muted">{zone}</span><span dir="auto">{name}</span><Id value={cron.cron_id} />
        {cron.thread_id && <a href={href(`threads/${cron.thread_id}`)}>{words.thread}</a>}
        <span class={`status ${cron.enabled ? "success" : "pending"}`}>{cron.enabled ? words.enabled : words.paused}</span>
        <span class="grow" />
        {may("threads.create_run") && <button type="button" onClick={() => void attempt(runNow)}>{words.runNow}</button>}
        {may("crons.update") && <button type="button" onClick={() => void attempt(() => send("PATCH", `/runs/crons/${cron.cron_id}`, { body: { enabled: !cron.enabled } }))}>{cron.enabled ? words.pause : words.resume}</button>}
        {may("crons.delete") && <button type="button" onClick={() => { if (confirm(words.deleteQuestion(cron.schedule))) void attempt(() => send("DELETE", `/runs/crons/${cron.cron_id}`)); }}>{words.remove}</button>}
      </div>
      {cron.enabled && cron.next_run_date && <p>{words.nextTime} <Time iso={cron.next_run_date} />{cron.end_time && <span class="muted"> · {words.until} <Time iso={cron.end_time} /></span>}</p>}
      {times.length > 0 && <Times times={times} zone={zone} />}
      <details><summary>{words.input}</summary><JsonView value={cron.payload.input ?? null} /></details>
    </li>
  );
}

function Times({ times, zone }: { times: number[]; zone: string }) {
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const theirs = new Intl.DateTimeFormat(navigator.language, { timeZone: zone, dateStyle: "medium", timeStyle: "short" });
  return (
    <details>
      <summary>{words.nextTimes(times.length)}</summary>
      <table>
        <thead><tr><th>{words.hereZone(here)}</th><th>{zone}</th></tr></thead>
        <tbody>{times.map((time) => <tr key={time}><td>{exactTime(new Date(time).toISOString())}</td><td>{theirs.format(time)}</td></tr>)}</tbody>
      </table>
    </details>
  );
}

function NewCron() {
  const [schedule, setSchedule] = useState("0 9 * * mon-fri");
  const [assistantId, setAssistantId] = useState("");
  const [input, setInput] = useState<unknown>({ messages: [{ role: "user", content: "" }] });
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const times = nextTimes(schedule, zone, Date.now(), 3);
  return (
    <details class="new">
      <summary>{words.newCron}</summary>
      <form onSubmit={(event) => { event.preventDefault(); void attempt(() => post("/runs/crons", { schedule, timezone: zone, assistant_id: assistantId || assistants.value[0]?.assistant_id, input })); }}>
        <label class="field"><span>{words.assistant}</span><select value={assistantId || assistants.value[0]?.assistant_id} onChange={(event) => setAssistantId(event.currentTarget.value)}>{assistants.value.map((each) => <option key={each.assistant_id} value={each.assistant_id}>{each.name}</option>)}</select></label>
        <label class="field"><span>{words.schedule}</span><input class="mono" required value={schedule} onInput={(event) => setSchedule(event.currentTarget.value)} /><small>{zone}: {times.length > 0 ? times.map((time) => exactTime(new Date(time).toISOString())).join(" · ") : words.unknownSchedule}</small></label>
        <label class="field"><span>{words.input}</span><JsonInput value={input} rows={6} onChange={setInput} /></label>
        <button type="submit" class="primary">{words.create}</button>
      </form>
    </details>
  );
}
