/** Whether the server is well: slots, queue, runs, errors and delays of the last 15 minutes, from /metrics. */

import type { OwnApiKey } from "./api-types.ts";
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, get, send } from "./api.ts";
import { parseMetrics, quantile, sumOf, type Sample } from "./metrics.ts";
import { caller, changes, info } from "./server-state.ts";
import { exactTime, formatNumber, Id, Time, toast, useInterval, useLoaded } from "./ui.tsx";
import { words } from "./words.ts";

const EVERY_MS = 2000;
const KEPT_MS = 15 * 60_000;

interface Point {
  at: number;
  values: Record<string, number | null>;
}

interface Series {
  key: string;
  label: string;
}

interface Chart {
  title: string;
  unit: string;
  series: Series[];
}

const CHARTS: Chart[] = [
  { title: words.slotsTitle, unit: "", series: [{ key: "slots_used", label: words.slotsUsed }, { key: "slots", label: words.slotsAll }] },
  { title: words.queueTitle, unit: "", series: [{ key: "queue", label: words.queueDepth }, { key: "waiting", label: words.requestsWaiting }] },
  { title: words.runsTitle, unit: words.perSecond, series: [{ key: "runs", label: words.runsEnded }, { key: "failed", label: words.runsFailed }] },
  { title: words.durationTitle, unit: "s", series: [{ key: "p50", label: "p50" }, { key: "p95", label: "p95" }] },
  { title: words.httpTitle, unit: words.perSecond, series: [{ key: "requests", label: words.requests }, { key: "errors", label: words.serverErrors }] },
  { title: words.lagTitle, unit: "ms", series: [{ key: "lag", label: "p95" }] },
];

/** What was read since the view was first opened. Other views do not read it. */
const points = signal<Point[]>([]);
const failure = signal<string | null>(null);
let last: { at: number; samples: Sample[] } | null = null;
let isReading = false;

function pointOf(samples: Sample[], at: number): Point {
  // The first reading has nothing to be compared with, so its rates are unknown and not huge.
  const before = last?.samples ?? samples;
  const seconds = last ? (at - last.at) / 1000 : 0;
  // Not below zero: counters begin again when the server restarts.
  const rate = (name: string, labels?: Record<string, string>) => (seconds > 0 ? Math.max(0, sumOf(samples, name, labels) - sumOf(before, name, labels)) / seconds : null);
  const serverErrors = (list: Sample[]) => list.filter((each) => each.name === "http_server_request_duration_seconds_count" && each.labels.http_response_status_code?.startsWith("5")).reduce((sum, each) => sum + each.value, 0);
  const lag = quantile(before, samples, "threadkeep_event_loop_lag_seconds", 0.95);
  return {
    at,
    values: {
      slots: sumOf(samples, "threadkeep_run_slots"),
      slots_used: sumOf(samples, "threadkeep_run_slots_in_use"),
      waiting: sumOf(samples, "threadkeep_admission_queue_length"),
      queue: sumOf(samples, "threadkeep_run_queue_depth"),
      queue_age: sumOf(samples, "threadkeep_run_queue_oldest_age_seconds"),
      streams: sumOf(samples, "threadkeep_sse_connections"),
      memory: sumOf(samples, "process_resident_memory_bytes"),
      runs: rate("threadkeep_runs_total"),
      failed: sum(rate("threadkeep_runs_total", { outcome: "error" }), rate("threadkeep_runs_total", { outcome: "timeout" })),
      p50: quantile(before, samples, "threadkeep_run_duration_seconds", 0.5),
      p95: quantile(before, samples, "threadkeep_run_duration_seconds", 0.95),
      requests: rate("http_server_request_duration_seconds_count"),
      errors: seconds > 0 ? Math.max(0, serverErrors(samples) - serverErrors(before)) / seconds : null,
      lag: lag === null ? null : lag * 1000,
    },
  };
}

function sum(a: number | null, b: number | null): number | null {
  return a === null || b === null ? null : a + b;
}

async function read(): Promise<void> {
  // A slow server must not be asked again before it has answered.
  if (isReading) return;
  isReading = true;
  try {
    const samples = parseMetrics(await (await send("GET", "/metrics")).text());
    const at = Date.now();
    points.value = [...points.value.filter((point) => at - point.at < KEPT_MS), pointOf(samples, at)];
    last = { at, samples };
    failure.value = null;
  } catch (error) {
    failure.value = error instanceof ApiError && error.status === 404 ? words.noMetrics : (error as Error).message;
  } finally {
    isReading = false;
  }
}

export default function Server() {
  useEffect(() => void read(), []);
  useInterval(() => void read(), EVERY_MS);
  const now = points.value.at(-1)?.values;
  return (
    <main class="page server">
      <h1>{words.views.server}</h1>
      {failure.value && <p class="problem" role="alert">{failure.value}</p>}
      {now && (
        <dl class="figures">
          <Figure label={words.slotsTitle} value={`${formatNumber(now.slots_used ?? 0)}/${formatNumber(now.slots ?? 0)}`} isBad={(now.slots ?? 0) > 0 && now.slots_used === now.slots} />
          <Figure label={words.requestsWaiting} value={formatNumber(now.waiting ?? 0)} isBad={(now.waiting ?? 0) > 0} />
          <Figure label={words.queueDepth} value={figure(now.queue)} isBad={(now.queue_age ?? 0) > 30} />
          <Figure label={words.oldestQueued} value={`${figure(now.queue_age)} s`} isBad={(now.queue_age ?? 0) > 30} />
          <Figure label={words.openStreams} value={figure(now.streams)} />
          <Figure label={words.memory} value={`${formatNumber((now.memory ?? 0) / 1048576)} MiB`} />
        </dl>
      )}
      <div class="charts">{CHARTS.map((chart) => <ChartView key={chart.title} chart={chart} />)}</div>
      <Workers />
      <Keys />
      {info.value && <p class="muted version">Threadkeep {info.value.version} · LangGraph {info.value.langgraph_py_version} · {words.bodyLimit(Math.floor(info.value.limits.body_bytes / 1048576))}</p>}
    </main>
  );
}

function figure(value: number | null | undefined): string {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : formatNumber(value);
}

function Figure({ label, value, isBad }: { label: string; value: string; isBad?: boolean }) {
  return <div class={isBad ? "bad" : ""}><dt>{label}</dt><dd class="tabular">{value}{isBad && <span class="unseen"> {words.highValue}</span>}</dd></div>;
}

const WIDTH = 320;
const HEIGHT = 90;

function ChartView({ chart }: { chart: Chart }) {
  const shown = points.value;
  const values = shown.flatMap((point) => chart.series.map((each) => point.values[each.key] ?? 0)).filter((value) => !Number.isNaN(value));
  const most = Math.max(1e-9, ...values);
  const end = shown.at(-1)?.at ?? 0;
  // At least a minute wide, or two points would fill the chart.
  const start = Math.min(shown[0]?.at ?? 0, end - 60_000);
  const line = (key: string) =>
    shown
      .filter((point) => point.values[key] !== null && !Number.isNaN(point.values[key] as number))
      .map((point) => `${(((point.at - start) / (end - start)) * WIDTH).toFixed(1)},${(HEIGHT - ((point.values[key] as number) / most) * (HEIGHT - 6)).toFixed(1)}`)
      .join(" ");
  const latest = shown.at(-1)?.values;
  return (
    <figure class="chart">
      <figcaption>{chart.title} <span class="muted">{chart.unit}</span></figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={chart.title}>
        <line x1="0" x2={WIDTH} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} class="axis" />
        {chart.series.map((each, index) => <polyline key={each.key} class={`series series-${index}`} points={line(each.key)} />)}
      </svg>
      <div class="legend">
        {chart.series.map((each, index) => <span key={each.key}><span class={`swatch series-${index}`} aria-hidden="true">{index === 0 ? "━" : "╌"}</span> {each.label} <b class="tabular">{figure(latest?.[each.key])}</b></span>)}
        <span class="grow" /><span class="muted tabular">{words.upTo(formatNumber(most))}</span>
      </div>
      <details>
        <summary>{words.asTable}</summary>
        <div class="table-scroll" tabIndex={0} role="region" aria-label={chart.title}>
          <table>
            <thead><tr><th>{words.time}</th>{chart.series.map((each) => <th key={each.key}>{each.label}</th>)}</tr></thead>
            <tbody>{[...shown].reverse().slice(0, 60).map((point) => <tr key={point.at}><td>{exactTime(new Date(point.at).toISOString())}</td>{chart.series.map((each) => <td key={each.key} class="tabular">{figure(point.values[each.key])}</td>)}</tr>)}</tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

type Worker = Record<string, unknown> & { worker_id?: string };

/** The processes that serve this project. An older server does not tell of them. */
function Workers() {
  const loaded = useLoaded((abort) => get<Worker[]>("/workers", abort).catch((error: Error) => (error instanceof ApiError ? [] : Promise.reject(error))), String(Math.floor(changes.value / 2)));
  const workers = loaded.value ?? [];
  if (workers.length === 0) return null;
  const columns = Object.keys(workers[0] as Worker).filter((name) => name !== "worker_id" && name !== "heartbeat_age_s");
  return (
    <section>
      <h2>{words.processes}</h2>
      <div class="table-scroll" tabIndex={0} role="region" aria-label={words.processes}>
        <table>
          <thead><tr><th>{words.process}</th>{columns.map((name) => <th key={name}>{words.columns[name] ?? name.replaceAll("_", " ")}</th>)}</tr></thead>
          <tbody>{workers.map((worker) => <tr key={worker.worker_id}><td><Id value={String(worker.worker_id)} /></td>{columns.map((name) => <td key={name}><Cell value={worker[name]} /></td>)}</tr>)}</tbody>
        </table>
      </div>
    </section>
  );
}

function Cell({ value }: { value: unknown }) {
  if (typeof value === "string" && /^\d{4}-\d\d-\d\dT/.test(value)) return <Time iso={value} />;
  if (typeof value === "number") return <span class="tabular">{formatNumber(value)}</span>;
  return <span dir="auto">{Array.isArray(value) ? value.join(", ") : value === null || value === undefined ? "–" : String(value)}</span>;
}

/** The caller's own API keys, to look at and to revoke. */
function Keys() {
  const loaded = useLoaded((abort) => (info.value?.auth?.kind === "api_key" ? get<OwnApiKey[]>("/api-keys", abort) : Promise.resolve([])), info.value?.auth?.kind ?? "");
  const keys = loaded.value ?? [];
  if (keys.length === 0) return null;
  async function revoke(key: OwnApiKey) {
    if (!confirm(words.revokeQuestion(key.name || key.prefix))) return;
    await send("DELETE", `/api-keys/${key.key_id}`).catch((error: Error) => toast(error.message));
    loaded.again();
  }
  return (
    <section>
      <h2>{words.apiKeys} {caller.value?.identity && <span class="muted">{caller.value.identity}</span>}</h2>
      <div class="table-scroll" tabIndex={0} role="region" aria-label={words.apiKeys}><table>
        <thead><tr><th>{words.name}</th><th>{words.prefix}</th><th>{words.scopes}</th><th>{words.lastUsed}</th><th><span class="unseen">{words.action}</span></th></tr></thead>
        <tbody>
          {keys.map((key) => (
            <tr key={key.key_id}>
              <td dir="auto">{key.name} {key.is_current && <span class="badge">{words.thisKey}</span>}</td><td><code>{key.prefix}…</code></td><td>{key.scopes.join(", ") || words.everything}</td>
              <td>{key.last_used_at ? <Time iso={key.last_used_at} /> : "–"}</td>
              <td>{key.revoked_at ? words.revoked : <button type="button" onClick={() => void revoke(key)}>{words.revoke}</button>}</td>
            </tr>
          ))}
        </tbody>
      </table></div>
    </section>
  );
}
