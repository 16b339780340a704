// `make rollout`: the tables of docs/recovery.md, Node's column and ours measured in one run. Names of
// rows as arguments (`cases` is the second table) run only those and write nothing; `--kind ours` or
// `--kind node` takes one column.
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { caseTable } from "./lib/recovery/cases.mjs";
import { ROWS } from "./lib/recovery/rows.mjs";

const DOCS = new URL("../../docs/recovery.md", import.meta.url);
const { values, positionals } = parseArgs({ options: { kind: { type: "string" } }, allowPositionals: true });
const kinds = values.kind ? [values.kind] : ["node", "ours"];
const wanted = (name) => positionals.length === 0 || positionals.includes(name);
const names = [...ROWS.map(({ name }) => name), "cases"];
const unknown = positionals.filter((name) => !names.includes(name));
if (unknown.length > 0) throw new Error(`no such row: ${unknown}; there are ${names.join(", ")}`);

async function rowTable() {
  const head = kinds.map((kind) => (kind === "node" ? "Node 4.8.4, adapter 0.3.1" : "here"));
  const lines = [`| what happens | ${head.join(" | ")} |`, `|${"---|".repeat(head.length + 1)}`];
  for (const { name, title, run, show } of ROWS.filter(({ name }) => wanted(name))) {
    const cells = [];
    for (const kind of kinds) {
      const begin = performance.now();
      const result = await run(kind).catch((error) => ({ error }));
      const took = ((performance.now() - begin) / 1000).toFixed(0);
      console.dir({ [`${name} ${kind} (${took} s)`]: result }, { depth: 6 });
      cells.push(result.error ? `failed: ${result.error.message}` : show(result));
    }
    lines.push(`| ${title} | ${cells.join(" | ")} |`);
  }
  return lines.join("\n");
}

const tables = { rollout: await rowTable(), cases: wanted("cases") ? await caseTable(kinds) : "" };
console.log(`\n${tables.rollout}\n\n${tables.cases}`);
if (!values.kind && positionals.length === 0) {
  let docs = await readFile(DOCS, "utf8");
  for (const [name, table] of Object.entries(tables)) {
    const pattern = new RegExp(`(<!-- ${name} table -->\n)[^]*?(<!-- end -->)`);
    if (!pattern.test(docs)) throw new Error(`docs/recovery.md has no place for the table of ${name}`);
    docs = docs.replace(pattern, (_, begin, end) => `${begin}${table}\n${end}`);
  }
  await writeFile(DOCS, docs);
}
