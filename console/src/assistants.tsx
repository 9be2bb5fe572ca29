/** Assistants: a graph with settings of its own, its versions and its schemas. */

import type { AssistantVersion } from "./api-types.ts";
import { useState } from "preact/hooks";
import { get, post, send, type Assistant, type Schemas } from "./api.ts";
import { diffJson, type Json } from "./diff.ts";
import { SchemaForm } from "./form.tsx";
import { GraphView } from "./graph.tsx";
import { Changes } from "./inspector.tsx";
import { href, navigate, route } from "./router.ts";
import { assistants, may, readAll, schemasOf } from "./server-state.ts";
import { Empty, Id, JsonView, Problem, Time, toast, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

export default function Assistants() {
  const { id } = route.value;
  const shown = assistants.value.find((each) => each.assistant_id === id);
  return (
    <main class="page two">
      <section class="list">
        <h1>{words.views.assistants}</h1>
        {assistants.value.length === 0 && <Empty title={words.noAssistant} />}
        <ul class="rows">
          {assistants.value.map((each) => (
            <li key={each.assistant_id}><a href={href(`assistants/${each.assistant_id}`)} aria-current={each.assistant_id === id ? "page" : undefined}><span dir="auto">{each.name}</span><span class="muted">{each.graph_id} · v{each.version}</span></a></li>
          ))}
        </ul>
        {may("assistants.create") && <NewAssistant />}
      </section>
      <section class="detail">{shown ? <Detail key={`${shown.assistant_id}${shown.version}`} assistant={shown} /> : <p class="muted">{words.chooseAssistant}</p>}</section>
    </main>
  );
}

function NewAssistant() {
  const graphs = [...new Set(assistants.value.map((each) => each.graph_id))];
  const [name, setName] = useState("");
  const [graph, setGraph] = useState("");
  async function submit(event: Event) {
    event.preventDefault();
    try {
      const made = await post<Assistant>("/assistants", { graph_id: graph || graphs[0], name: name.trim() });
      await readAll();
      navigate(`assistants/${made.assistant_id}`);
    } catch (error) {
      toast((error as Error).message);
    }
  }
  return (
    <details class="new">
      <summary>{words.newAssistant}</summary>
      <form onSubmit={submit}>
        <label class="field"><span>{words.name}</span><input required dir="auto" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label class="field"><span>{words.graph}</span><select value={graph || graphs[0]} onChange={(event) => setGraph(event.currentTarget.value)}>{graphs.map((each) => <option key={each} value={each}>{each}</option>)}</select></label>
        <button type="submit" class="primary">{words.create}</button>
      </form>
    </details>
  );
}

function Detail({ assistant }: { assistant: Assistant }) {
  const schemas = useLoaded(() => schemasOf(assistant.assistant_id), assistant.assistant_id);
  return (
    <>
      <div class="page-head">
        <h2 dir="auto">{assistant.name}</h2><span class="muted">{assistant.graph_id} · {words.version(assistant.version)}</span><Id value={assistant.assistant_id} />
        <span class="grow" />
        <a class="button" href={href(`?assistant=${assistant.assistant_id}`)}>{words.tryIt}</a>
        {may("assistants.delete") && assistant.metadata.created_by !== "system" && <DeleteButton assistant={assistant} />}
      </div>
      {assistant.description && <p dir="auto">{assistant.description}</p>}
      {schemas.error && <Problem error={schemas.error} again={schemas.again} />}
      {!schemas.value && !schemas.error && <Waiting what={words.loading} />}
      {schemas.value && <Settings assistant={assistant} schemas={schemas.value} />}
      <Versions assistant={assistant} />
      <GraphView assistant={assistant} counts={new Map()} liveNode={null} hasFailed={false} onNode={() => undefined} />
      {schemas.value && <details><summary>{words.schemas}</summary><JsonView value={schemas.value} /></details>}
    </>
  );
}

function DeleteButton({ assistant }: { assistant: Assistant }) {
  async function remove() {
    if (!confirm(words.deleteQuestion(assistant.name))) return;
    try {
      await send("DELETE", `/assistants/${assistant.assistant_id}`);
      await readAll();
      navigate("assistants");
    } catch (error) {
      toast((error as Error).message);
    }
  }
  return <button type="button" onClick={() => void remove()}>{words.remove}</button>;
}

function Settings({ assistant, schemas }: { assistant: Assistant; schemas: Schemas }) {
  const schema = schemas.context_schema ?? schemas.config_schema;
  const [values, setValues] = useState<unknown>(assistant.context);
  const [name, setName] = useState(assistant.name);
  const [isSaving, setSaving] = useState(false);
  async function save(event: Event) {
    event.preventDefault();
    setSaving(true);
    try {
      await send("PATCH", `/assistants/${assistant.assistant_id}`, { body: { name, context: values ?? {} } });
      await readAll();
      toast(words.savedAs(assistants.value.find((each) => each.assistant_id === assistant.assistant_id)?.version ?? 0));
    } catch (error) {
      toast((error as Error).message);
    }
    setSaving(false);
  }
  return (
    <form class="card" onSubmit={save}>
      <h3>{words.settings}</h3>
      <label class="field"><span>{words.name}</span><input dir="auto" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
      <SchemaForm schema={schema} value={values} onChange={setValues} />
      {may("assistants.update") && <div class="buttons"><button type="submit" class="primary" disabled={isSaving}>{words.saveVersion}</button></div>}
    </form>
  );
}

function Versions({ assistant }: { assistant: Assistant }) {
  const loaded = useLoaded((abort) => post<AssistantVersion[]>(`/assistants/${assistant.assistant_id}/versions`, { limit: 50 }, abort), `${assistant.assistant_id}${assistant.version}`);
  const versions = loaded.value ?? [];
  async function restore(version: number) {
    try {
      await get(`/assistants/${assistant.assistant_id}`);
      await post(`/assistants/${assistant.assistant_id}/latest`, { version });
      await readAll();
      toast(words.isCurrent(version));
    } catch (error) {
      toast((error as Error).message);
    }
  }
  const partOf = (version: AssistantVersion | undefined) => ({ name: version?.name ?? null, context: version?.context ?? {}, config: version?.config ?? {}, metadata: version?.metadata ?? {} }) as Json;
  return (
    <section class="card">
      <h3>{words.versions}</h3>
      {loaded.error && <Problem error={loaded.error} again={loaded.again} />}
      {versions.map((version, index) => (
        <details key={version.version}>
          <summary>{words.version(version.version)} <span class="muted"><Time iso={version.created_at} /></span> {version.version === assistant.version && <span class="badge">{words.current}</span>}</summary>
          {versions[index + 1] ? <Changes changes={diffJson(partOf(versions[index + 1]), partOf(version))} /> : <JsonView value={partOf(version)} />}
          {version.version !== assistant.version && may("assistants.update") && <button type="button" onClick={() => void restore(version.version)}>{words.makeCurrent}</button>}
        </details>
      ))}
    </section>
  );
}
