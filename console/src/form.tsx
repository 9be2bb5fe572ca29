/** Forms made from JSON schemas. What a form can't show is edited as JSON. */

import { useState } from "preact/hooks";
import type { Schema } from "./api.ts";
import { pretty } from "./ui.tsx";
import { words } from "./words.ts";

/** The schema with `$ref` and single-member `allOf`/`anyOf` followed. */
function resolved(schema: Schema, root: Schema): Schema {
  let current = schema;
  // A schema may refer to itself.
  for (let depth = 0; depth < 20; depth++) {
    const ref = current.$ref;
    const options = (current.anyOf ?? current.oneOf) as Schema[] | undefined;
    // Pydantic writes an optional field as the type or null.
    const others = options?.filter((each) => each.type !== "null");
    const all = current.allOf as Schema[] | undefined;
    let inner: Schema | undefined;
    if (typeof ref === "string" && ref.startsWith("#/")) {
      inner = ref.slice(2).split("/").reduce<unknown>((value, key) => (value as Schema | undefined)?.[key], root) as Schema | undefined;
    } else if (others?.length === 1) inner = others[0];
    else if (all?.length === 1) inner = all[0];
    if (!inner) return current;
    const { $ref: _ref, anyOf: _any, oneOf: _one, allOf: _all, ...rest } = current;
    current = { ...inner, ...rest };
  }
  return current;
}

function kindOf(schema: Schema): "choice" | "boolean" | "number" | "text" | "object" | "json" {
  if (Array.isArray(schema.enum)) return "choice";
  if (schema.type === "boolean") return "boolean";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.type === "string") return "text";
  if (schema.type === "object" && schema.properties) return "object";
  return "json";
}

export function initialValue(schema: Schema, root: Schema = schema): unknown {
  const found = resolved(schema, root);
  if (found.default !== undefined && found.default !== null) return found.default;
  if (kindOf(found) !== "object") return undefined;
  const properties = Object.entries(found.properties as Record<string, Schema>);
  const values = properties.map(([name, each]) => [name, initialValue(each, root)] as const).filter(([, value]) => value !== undefined);
  return Object.fromEntries(values);
}

interface FieldProps {
  label: string;
  schema: Schema;
  root: Schema;
  value: unknown;
  onChange: (value: unknown) => void;
  required: boolean;
}

function Field({ label, schema, root, value, onChange, required }: FieldProps) {
  const found = resolved(schema, root);
  const kind = kindOf(found);
  if (kind === "object") return <fieldset><legend>{label}</legend><Fields schema={found} root={root} value={value} onChange={onChange} /></fieldset>;
  const help = typeof found.description === "string" ? found.description : "";
  return (
    <label class={`field ${kind}`}>
      <span>{label}{required && <span class="required" title={words.required}> *</span>}</span>
      <Input kind={kind} schema={found} value={value} onChange={onChange} />
      {help && <small dir="auto">{help}</small>}
    </label>
  );
}

function Input({ kind, schema, value, onChange }: { kind: string; schema: Schema; value: unknown; onChange: (value: unknown) => void }) {
  if (kind === "choice") {
    const choices = schema.enum as unknown[];
    return (
      <select value={String(choices.indexOf(value))} onChange={(event) => onChange(choices[Number(event.currentTarget.value)])}>
        <option value="-1">–</option>
        {choices.map((each, index) => <option key={index} value={String(index)}>{String(each)}</option>)}
      </select>
    );
  }
  if (kind === "boolean") return <input type="checkbox" checked={value === true} onChange={(event) => onChange(event.currentTarget.checked)} />;
  if (kind === "number") {
    return <input type="number" step={schema.type === "integer" ? 1 : "any"} value={value === undefined || value === null ? "" : String(value)}
      onInput={(event) => onChange(event.currentTarget.value === "" ? undefined : event.currentTarget.valueAsNumber)} />;
  }
  if (kind === "text") {
    return <textarea rows={String(value ?? "").includes("\n") || String(value ?? "").length > 60 ? 4 : 1} dir="auto" value={String(value ?? "")}
      onInput={(event) => onChange(event.currentTarget.value)} />;
  }
  return <JsonInput value={value} onChange={onChange} rows={3} />;
}

function Fields({ schema, root, value, onChange }: { schema: Schema; root: Schema; value: unknown; onChange: (value: unknown) => void }) {
  const current = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const required = (schema.required as string[] | undefined) ?? [];
  return (
    <>
      {Object.entries((schema.properties ?? {}) as Record<string, Schema>).map(([name, each]) => (
        <Field key={name} label={typeof each.title === "string" && each.title ? each.title : name} schema={each} root={root} value={current[name]} required={required.includes(name)}
          onChange={(next) => {
            const changed = { ...current, [name]: next };
            // An emptied field is left out, because `null` is a value that many schemas do not allow.
            if (next === undefined) delete changed[name];
            onChange(changed);
          }} />
      ))}
    </>
  );
}

/** Text that is JSON. `onChange` is called with each valid value only. */
export function JsonInput({ value, onChange, rows, label }: { value: unknown; onChange: (value: unknown) => void; rows: number; label?: string }) {
  const [text, setText] = useState(value === undefined ? "" : JSON.stringify(value, null, 2));
  const [error, setError] = useState("");
  return (
    <span class="json-input">
      <textarea class="mono" rows={rows} spellcheck={false} aria-label={label} aria-invalid={error !== ""} value={text}
        onInput={(event) => {
          const next = event.currentTarget.value;
          setText(next);
          try {
            onChange(next.trim() === "" ? undefined : JSON.parse(next));
            setError("");
          } catch (problem) {
            setError((problem as Error).message);
          }
        }} />
      {error && <small class="error" role="alert">{words.notJson} {error}</small>}
    </span>
  );
}

/** A form for a value, with a switch to its JSON. */
export function SchemaForm({ schema, value, onChange }: { schema: Schema | null; value: unknown; onChange: (value: unknown) => void }) {
  const hasFields = schema !== null && kindOf(resolved(schema, schema)) === "object" && Object.keys((resolved(schema, schema).properties ?? {}) as object).length > 0;
  const [isRaw, setRaw] = useState(!hasFields);
  return (
    <div class="schema-form">
      {hasFields && (
        <label class="switch"><input type="checkbox" checked={isRaw} onChange={(event) => setRaw(event.currentTarget.checked)} /> {words.asJson}</label>
      )}
      {isRaw || !schema ? (
        <JsonInput value={value ?? {}} onChange={onChange} rows={Math.min(14, Math.max(4, pretty(value ?? {}).split("\n").length + 1))} label={words.asJson} />
      ) : (
        <Fields schema={resolved(schema, schema)} root={schema} value={value} onChange={onChange} />
      )}
    </div>
  );
}
