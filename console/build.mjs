// Builds the console into ../src/console_files.
//   node build.mjs            build
//   node build.mjs --watch    build again at each change
//   node build.mjs --check    build twice in memory: equal bytes, and within the budget
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, watch, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const TARGET = join(HERE, "..", "src", "console_files");
const KB = 1024;
const BUDGET = {
  "frame, overview and tasks": 90 * KB,
  "a further page": 15 * KB,
  "graph worker": 25 * KB,
  "all scripts": 200 * KB,
  styles: 15 * KB,
};
const FIRST_PAGES = ["src/pages/overview.tsx", "src/pages/tasks.tsx"];

const COMMON = {
  absWorkingDir: HERE,
  outdir: "out",
  bundle: true,
  write: false,
  metafile: true,
  minify: true,
  target: ["chrome109", "firefox115", "safari16"],
  entryNames: "[name].[hash]",
  chunkNames: "[name].[hash]",
  assetNames: "[name].[hash]",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
};

/** Return the file name that esbuild gave to an entry point. */
function nameOf(metafile, entry, extension) {
  const found = Object.entries(metafile.outputs).find(
    ([name, output]) => output.entryPoint === entry && name.endsWith(extension),
  );
  return basename(found[0]);
}

const listed = (folder, ending) =>
  existsSync(join(HERE, folder))
    ? readdirSync(join(HERE, folder), { recursive: true })
        .map(String)
        .filter((name) => name.endsWith(ending))
        .sort()
    : [];

/** All style sheets in one: tokens first, then what uses them, pages last. */
function styleSheet() {
  const first = ["tokens.css", "base.css", "parts.css"];
  const rest = listed("styles", ".css").filter((name) => !first.includes(name));
  return ["uplot/dist/uPlot.min.css", ...[...first, ...rest].map((name) => `./styles/${name}`)]
    .map((name) => `@import ${JSON.stringify(name)};`)
    .join("\n");
}

/** The licences of what is in the bundle, by the packages that esbuild read. */
function licences(metafiles) {
  const packages = new Set();
  for (const metafile of metafiles)
    for (const input of Object.keys(metafile.inputs)) {
      const [, found] = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//) ?? [];
      if (found) packages.add(found);
    }
  const parts = [...packages].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : ""}`;
  });
  parts.push(`lucide 1.62.0 (ISC): icons\n\n${readFileSync(join(HERE, "licenses", "lucide.txt"), "utf8").trim()}`);
  return `Programs of others in the console of Taskstream.\n\n${parts.join(`\n\n${"-".repeat(80)}\n\n`)}\n`;
}

/** Build in memory: `files` by name, and what the budget needs. */
async function bundle() {
  const workerEntries = listed("src", ".worker.ts").map((name) => `src/${name}`);
  const workers = await build({ ...COMMON, entryPoints: workerEntries, format: "iife" });
  const names = Object.fromEntries(
    workerEntries.map((entry) => [basename(entry, ".worker.ts"), nameOf(workers.metafile, entry, ".js")]),
  );
  const theme = await build({ ...COMMON, entryPoints: ["src/theme.ts"], format: "iife" });
  const app = await build({
    ...COMMON,
    entryPoints: ["src/app.tsx"],
    format: "esm",
    splitting: true,
    jsx: "automatic",
    jsxImportSource: "preact",
    define: { WORKER_FILES: JSON.stringify(names) },
  });
  const styles = await build({
    ...COMMON,
    stdin: { contents: styleSheet(), loader: "css", resolveDir: HERE, sourcefile: "console.css" },
    entryNames: "console.[hash]",
  });
  // The frame's files are asked for at once, not one after the other as each names the next.
  const entry = Object.keys(app.metafile.outputs).find(
    (name) => app.metafile.outputs[name].entryPoint === "src/app.tsx",
  );
  const preloads = [...closure(app.metafile, ["src/app.tsx"])]
    .filter((name) => name !== entry)
    .map((name) => `<link rel="modulepreload" href="assets/${basename(name)}">`)
    .sort()
    .join("\n");
  const files = new Map();
  for (const result of [workers, theme, app, styles])
    for (const file of result.outputFiles) files.set(`assets/${basename(file.path)}`, Buffer.from(file.contents));
  const style = basename(styles.outputFiles[0].path);
  const page = readFileSync(join(HERE, "index.html"), "utf8")
    .replace("THEME", `assets/${nameOf(theme.metafile, "src/theme.ts", ".js")}`)
    .replace("PRELOADS", preloads)
    .replace("STYLE", `assets/${style}`)
    .replace("APP", `assets/${nameOf(app.metafile, "src/app.tsx", ".js")}`);
  files.set("index.html", Buffer.from(page));
  files.set("icon.svg", readFileSync(join(HERE, "icon.svg")));
  files.set("licenses.txt", Buffer.from(licences([workers.metafile, app.metafile, styles.metafile])));
  return { files, app: app.metafile, workers: workers.metafile, theme: theme.metafile, style };
}

const gzipped = (bytes) => gzipSync(bytes, { level: 9 }).length;

/** Return the outputs that load with these entry points: what they import statically. */
function closure(metafile, entries) {
  const wanted = new Set();
  const visit = (name) => {
    if (wanted.has(name)) return;
    wanted.add(name);
    for (const each of metafile.outputs[name].imports) if (each.kind === "import-statement") visit(each.path);
  };
  for (const [name, output] of Object.entries(metafile.outputs)) if (entries.includes(output.entryPoint)) visit(name);
  return wanted;
}

/** Return [what, bytes, limit] of each part of the budget. */
function sizes({ files, app, workers, theme, style }) {
  const size = (name) => gzipped(files.get(`assets/${basename(name)}`));
  const sum = (names) => [...names].reduce((total, name) => total + size(name), 0);
  const first = closure(app, ["src/app.tsx", ...FIRST_PAGES]);
  const rows = [
    ["frame, overview and tasks", sum(first) + sum(Object.keys(theme.outputs)), BUDGET["frame, overview and tasks"]],
  ];
  for (const { entryPoint } of Object.values(app.outputs))
    if (entryPoint?.startsWith("src/pages/") && !FIRST_PAGES.includes(entryPoint)) {
      const own = [...closure(app, [entryPoint])].filter((name) => !first.has(name));
      rows.push([entryPoint, sum(own), BUDGET["a further page"]]);
    }
  for (const [name, { entryPoint }] of Object.entries(workers.outputs))
    if (entryPoint) rows.push([entryPoint, size(name), BUDGET["graph worker"]]);
  const scripts = [app, workers, theme].flatMap((metafile) => Object.keys(metafile.outputs));
  rows.push(["all scripts", sum(scripts), BUDGET["all scripts"]], ["styles", size(style), BUDGET.styles]);
  return rows;
}

function write(files) {
  const fresh = `${TARGET}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(join(fresh, "assets"), { recursive: true });
  for (const [name, bytes] of files) {
    writeFileSync(join(fresh, name), bytes);
    if (!/\.(js|css|html|svg|txt)$/.test(name)) continue;
    writeFileSync(join(fresh, `${name}.gz`), gzipSync(bytes, { level: 9 }));
    writeFileSync(
      join(fresh, `${name}.br`),
      brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }),
    );
  }
  rmSync(TARGET, { recursive: true, force: true });
  renameSync(fresh, TARGET);
}

function report(built) {
  let over = false;
  for (const [what, bytes, limit] of sizes(built)) {
    over ||= bytes > limit;
    const line = `${what}: ${(bytes / KB).toFixed(1)} of ${limit / KB} kB gzipped`;
    console.log(bytes > limit ? `TOO LARGE ${line}` : line);
  }
  return over;
}

if (process.argv.includes("--check")) {
  const [one, other] = [await bundle(), await bundle()];
  const differ = [...one.files].filter(([name, bytes]) => !other.files.get(name)?.equals(bytes));
  if (differ.length) console.log(`two builds differ in ${differ.map(([name]) => name).join(", ")}`);
  process.exit(report(one) || differ.length ? 1 : 0);
}

write((await bundle()).files);
if (process.argv.includes("--watch")) {
  let timer;
  const again = () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        write((await bundle()).files);
        console.log("built");
      } catch (error) {
        console.error(error.message);
      }
    }, 100);
  };
  for (const folder of ["src", "styles"]) watch(join(HERE, folder), { recursive: true }, again);
}
