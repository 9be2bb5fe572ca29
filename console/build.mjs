// Builds the page into the folder given, by default the one that the server serves.
// The same sources give the same bytes: names hold hashes of contents, and nothing holds a path or a date.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TARGET = path.resolve(process.argv[2] ?? path.join(HERE, "../server/threadkeep/console"));
const FIRST_VIEW_BYTES = 100_000;
const ALL_BYTES = 220_000;
/** No sources of what is built. Types leave no trace in it, so a change of the API alone needs no new build. */
const UNHASHED = new Set(["node_modules", "README.md", "src/api-types.ts"]);

/** The files below a folder as relative paths with slashes, in the order of their names. */
async function filesBelow(folder, prefix = "") {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = [];
  for (const entry of entries) {
    const name = prefix + entry.name;
    if (UNHASHED.has(name)) continue;
    if (entry.isDirectory()) names.push(...(await filesBelow(path.join(folder, entry.name), `${name}/`)));
    else names.push(name);
  }
  return names.sort((a, b) => (a < b ? -1 : 1));
}

/** A hash over the names and contents of all sources. tests/console/test_build.py computes the same. */
async function sourcesHash() {
  const hash = createHash("sha256");
  for (const name of await filesBelow(HERE)) {
    const content = await readFile(path.join(HERE, name));
    hash.update(`${name}\n${content.length}\n`).update(content);
  }
  return hash.digest("hex");
}

/** The licences of the packages that the built files contain, in the order of their names. */
async function licences(inputs) {
  const packages = new Set();
  for (const input of inputs) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (match) packages.add(match[1]);
  }
  const parts = [];
  for (const name of [...packages].sort()) {
    const folder = path.join(HERE, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).sort().find((each) => /^licen[cs]e/i.test(each));
    const text = file ? await readFile(path.join(folder, file), "utf8") : "";
    parts.push(`${name} ${version} (${license})\n\n${text.replaceAll("\r\n", "\n").trim()}\n`);
  }
  return parts.join(`\n${"-".repeat(100)}\n\n`);
}

const OPTIONS = {
  absWorkingDir: HERE,
  outdir: TARGET,
  entryNames: "[name].[hash]",
  bundle: true,
  format: "esm",
  target: ["chrome120", "firefox121", "safari17"],
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: true,
  legalComments: "none",
  metafile: true,
  write: false,
  define: { "process.env.NODE_ENV": '"production"' },
};
/** Parts that are loaded when they are first needed. They import nothing of the page, so that it is one file itself. */
const PARTS = ["highlight", "dagre"];

function outputsOf(result) {
  return result.outputFiles.map((file) => ({ name: path.basename(file.path), content: file.contents }));
}

const lazy = await build({ ...OPTIONS, entryPoints: PARTS.map((name) => `src/${name}.ts`) });
const lazyNames = new Map(outputsOf(lazy).map(({ name }) => [`./${name.split(".")[0]}.ts`, name]));
const resolveParts = {
  name: "parts",
  setup(building) {
    building.onResolve({ filter: /^\.\/\w+\.ts$/ }, ({ path: imported, kind }) =>
      kind === "dynamic-import" && lazyNames.has(imported) ? { path: `./${lazyNames.get(imported)}`, external: true } : null,
    );
  },
};
const result = await build({ ...OPTIONS, entryPoints: { app: "src/main.tsx", style: "src/style.css" }, plugins: [resolveParts] });

const outputs = [...outputsOf(lazy), ...outputsOf(result)];
const script = outputs.find(({ name }) => /^app\..*\.js$/.test(name)).name;
const style = outputs.find(({ name }) => /^style\..*\.css$/.test(name));
const styleName = style.name.replace(/^style/, "app");
style.name = styleName;

const template = await readFile(path.join(HERE, "src/index.html"), "utf8");
const html = template
  .replaceAll("{{script}}", script)
  .replaceAll("{{style}}", styleName)
  .replaceAll("{{sources}}", await sourcesHash());

await rm(TARGET, { recursive: true, force: true });
await mkdir(TARGET, { recursive: true });
for (const { name, content } of outputs) await writeFile(path.join(TARGET, name), content);
await writeFile(path.join(TARGET, "index.html"), html);
await writeFile(path.join(TARGET, "LICENSES.txt"), await licences([result, lazy].flatMap(({ metafile }) => Object.keys(metafile.inputs))));

const first = new Set([script, styleName]);
let firstBytes = 0;
let allBytes = 0;
for (const { name, content } of outputs.sort((a, b) => (a.name < b.name ? -1 : 1))) {
  const size = gzipSync(content, { level: 9 }).length;
  allBytes += size;
  if (first.has(name)) firstBytes += size;
  console.log(`${String(size).padStart(7)} bytes gzip  ${name}${first.has(name) ? "  (first view)" : ""}`);
}
console.log(`first view ${firstBytes} of ${FIRST_VIEW_BYTES}, all ${allBytes} of ${ALL_BYTES} bytes gzip`);
if (firstBytes > FIRST_VIEW_BYTES || allBytes > ALL_BYTES) process.exit(1);
