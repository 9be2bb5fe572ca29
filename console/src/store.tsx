/** The store: namespaces as a tree, and the items in them. */

import type { Item } from "./api-types.ts";
import { useState } from "preact/hooks";
import { post, send } from "./api.ts";
import { JsonInput } from "./form.tsx";
import { route, setQuery } from "./router.ts";
import { may } from "./server-state.ts";
import { Dialog, Empty, Problem, Time, toast, useLoaded, Waiting } from "./ui.tsx";
import { words } from "./words.ts";

interface Branch {
  label: string;
  path: string[];
  children: Branch[];
}

const NAMESPACES = 1000;
const PAGE = 50;

function treeOf(namespaces: string[][]): Branch[] {
  const top: Branch = { label: "", path: [], children: [] };
  for (const namespace of namespaces) {
    let at = top;
    for (const label of namespace) {
      let next = at.children.find((each) => each.label === label);
      if (!next) {
        next = { label, path: [...at.path, label], children: [] };
        at.children.push(next);
      }
      at = next;
    }
  }
  return top.children;
}

export default function Store() {
  const path = route.value.query.getAll("at").length ? JSON.parse(route.value.query.get("at") as string) as string[] : [];
  const [round, setRound] = useState(0);
  const loaded = useLoaded((abort) => post<{ namespaces: string[][] }>("/store/namespaces", { limit: NAMESPACES }, abort), String(round));
  const namespaces = loaded.value?.namespaces ?? [];
  const changed = () => setRound(round + 1);
  return (
    <main class="page two">
      <section class="list">
        <h1>{words.views.store}</h1>
        {loaded.error && <Problem error={loaded.error} again={loaded.again} />}
        <ul class="tree"><li><button type="button" class="quiet" aria-pressed={path.length === 0} onClick={() => setQuery({ at: null })}>{words.allNamespaces}</button></li><Branches branches={treeOf(namespaces)} shown={path} /></ul>
        {namespaces.length === NAMESPACES && <p class="muted">{words.cut}</p>}
      </section>
      <section class="detail"><Items key={JSON.stringify(path)} path={path} round={round} onChange={changed} /></section>
    </main>
  );
}

function Branches({ branches, shown }: { branches: Branch[]; shown: string[] }) {
  return (
    <>
      {branches.map((branch) => (
        <li key={branch.label}>
          <button type="button" class="quiet" dir="auto" aria-pressed={JSON.stringify(branch.path) === JSON.stringify(shown)} onClick={() => setQuery({ at: JSON.stringify(branch.path) })}>{branch.label}</button>
          {branch.children.length > 0 && <ul><Branches branches={branch.children} shown={shown} /></ul>}
        </li>
      ))}
    </>
  );
}

function Items({ path, round, onChange }: { path: string[]; round: number; onChange: () => void }) {
  const [text, setText] = useState("");
  const [limit, setLimit] = useState(PAGE);
  const [editing, setEditing] = useState<Item | "new" | null>(null);
  const loaded = useLoaded((abort) => post<{ items: Item[] }>("/store/items/search", { namespace_prefix: path, limit, ...(text.trim() ? { query: text.trim() } : {}) }, abort), `${text} ${limit} ${round}`);
  const needle = text.trim().toLowerCase();
  // A store without an index ignores `query`, so the page searches in the items that it got.
  const items = (loaded.value?.items ?? []).filter((item) => needle === "" || "score" in item || `${item.key} ${JSON.stringify(item.value)}`.toLowerCase().includes(needle));
  async function remove(item: Item) {
    if (!confirm(words.deleteQuestion(item.key))) return;
    await send("DELETE", "/store/items", { body: { namespace: item.namespace, key: item.key } }).catch((error: Error) => toast(error.message));
    onChange();
  }
  return (
    <>
      <div class="page-head">
        <h2 dir="auto">{path.join(" › ") || words.allNamespaces}</h2>
        <input type="search" aria-label={words.searchItems} placeholder={words.searchItems} value={text} onInput={(event) => setText(event.currentTarget.value)} />
        {may("store.put") && <button type="button" onClick={() => setEditing("new")}>{words.newItem}</button>}
      </div>
      {loaded.error && <Problem error={loaded.error} again={loaded.again} />}
      {!loaded.value && !loaded.error && <Waiting what={words.loading} />}
      {loaded.value && items.length === 0 && <Empty title={words.noItems}><p class="muted">{words.noItemsHelp}</p></Empty>}
      {items.length > 0 && (
        <div class="table-scroll" tabIndex={0} role="region" aria-label={words.views.store}><table>
          <thead><tr><th>{words.namespace}</th><th>{words.key}</th><th>{words.value}</th><th>{words.changed}</th><th><span class="unseen">{words.action}</span></th></tr></thead>
          <tbody>
            {items.map((item) => (
              <tr key={JSON.stringify([item.namespace, item.key])}>
                <td dir="auto">{item.namespace.join(" › ")}</td><td dir="auto"><code>{item.key}</code></td><td dir="auto">{shortened(item.value)}</td><td><Time iso={item.updated_at} /></td>
                <td class="row-actions"><button type="button" class="quiet" onClick={() => setEditing(item)}>{may("store.put") ? words.edit : words.open}</button>{may("store.delete") && <button type="button" class="quiet" onClick={() => void remove(item)}>{words.remove}</button>}</td>
              </tr>
            ))}
          </tbody>
        </table></div>
      )}
      {items.length >= limit && <button type="button" class="quiet" onClick={() => setLimit(limit + PAGE)}>{words.showMore}</button>}
      {editing && <ItemDialog item={editing === "new" ? null : editing} path={path} onClose={() => setEditing(null)} onSaved={() => { setEditing(null); onChange(); }} />}
    </>
  );
}

function shortened(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}

function ItemDialog({ item, path, onClose, onSaved }: { item: Item | null; path: string[]; onClose: () => void; onSaved: () => void }) {
  const [namespace, setNamespace] = useState((item?.namespace ?? path).join("."));
  const [key, setKey] = useState(item?.key ?? "");
  const [value, setValue] = useState<unknown>(item?.value ?? {});
  const [minutes, setMinutes] = useState("");
  async function save(event: Event) {
    event.preventDefault();
    const body = { namespace: namespace.split("."), key, value, ...(minutes ? { ttl: Number(minutes) } : {}) };
    try {
      await send("PUT", "/store/items", { body });
      onSaved();
    } catch (error) {
      toast((error as Error).message);
    }
  }
  return (
    <Dialog label={words.item} onClose={onClose} wide>
      <form onSubmit={save}>
        <label class="field"><span>{words.namespace}</span><input dir="auto" required disabled={item !== null} value={namespace} onInput={(event) => setNamespace(event.currentTarget.value)} /></label>
        <label class="field"><span>{words.key}</span><input dir="auto" required disabled={item !== null} value={key} onInput={(event) => setKey(event.currentTarget.value)} /></label>
        <label class="field"><span>{words.value}</span><JsonInput value={value} rows={12} onChange={setValue} /></label>
        <label class="field"><span>{words.ttl}</span><input type="number" min="0.001" step="any" value={minutes} onInput={(event) => setMinutes(event.currentTarget.value)} /></label>
        <div class="buttons">{may("store.put") && <button type="submit" class="primary">{words.save}</button>}<button type="button" onClick={onClose}>{words.close}</button></div>
      </form>
    </Dialog>
  );
}
