// Builds the packages: ES modules and CommonJS with types, in <package>/dist.
//   node build.mjs            build
//   node build.mjs --check    compare the sizes with the budget
//   node build.mjs --page F [ENTRY]   build a page of the tests in a browser into a file
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const TSC = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const KB = 1024;
/** Minified and gzipped, without React. */
const BUDGET = {
  "typescript/src/index.ts": 16 * KB,
  "react/src/index.ts": 20 * KB,
};
const FORMATS = {
  esm: ["--module", "esnext", "--moduleResolution", "bundler"],
  cjs: ["--module", "commonjs", "--moduleResolution", "node10", "--verbatimModuleSyntax", "false"],
};

function compile(name) {
  const target = join(HERE, name, "dist");
  rmSync(target, { recursive: true, force: true });
  for (const [format, options] of Object.entries(FORMATS)) {
    const outDir = join(target, format);
    execFileSync(
      process.execPath,
      [TSC, "-p", join(HERE, name, "tsconfig.build.json"), "--outDir", outDir, ...options],
      {
        stdio: "inherit",
      },
    );
    // tsc leaves the endings of sources in declarations.
    for (const file of readdirSync(outDir).filter((each) => each.endsWith(".d.ts"))) {
      const text = readFileSync(join(outDir, file), "utf8");
      writeFileSync(join(outDir, file), text.replaceAll(/(from |import\()"(\.[^"]+)\.tsx?"/g, '$1"$2.js"'));
    }
    writeFileSync(join(outDir, "package.json"), `{"type": "${format === "esm" ? "module" : "commonjs"}"}\n`);
  }
  copyFileSync(join(HERE, "..", "LICENSE"), join(HERE, name, "LICENSE"));
}

async function sizes() {
  let over = false;
  for (const [entry, limit] of Object.entries(BUDGET)) {
    if (!existsSync(join(HERE, entry))) continue;
    const made = await build({
      absWorkingDir: HERE,
      entryPoints: [entry],
      bundle: true,
      write: false,
      minify: true,
      format: "esm",
      target: "es2022",
      jsx: "automatic",
      external: ["react"],
      tsconfig: "tsconfig.json",
      logLevel: "warning",
    });
    const bytes = gzipSync(made.outputFiles[0].contents, { level: 9 }).length;
    over ||= bytes > limit;
    console.log(`${bytes > limit ? "TOO LARGE " : ""}${entry}: ${(bytes / KB).toFixed(1)} of ${limit / KB} kB gzipped`);
  }
  return over;
}

/** The page of the tests, with React in its development mode: StrictMode does everything twice there. */
async function page(target, entry = "react/test/page.tsx") {
  await build({
    absWorkingDir: HERE,
    entryPoints: [entry],
    bundle: true,
    outfile: target,
    format: "iife",
    target: "chrome109",
    jsx: "automatic",
    jsxDev: true,
    define: { "process.env.NODE_ENV": '"development"' },
    tsconfig: "tsconfig.json",
    nodePaths: [join(HERE, "node_modules")],
    logLevel: "warning",
  });
}

const at = process.argv.indexOf("--page");
if (at > 0) {
  await page(...process.argv.slice(at + 1));
  process.exit(0);
}
if (process.argv.includes("--check")) process.exit((await sizes()) ? 1 : 0);
for (const name of ["typescript", "react"]) if (readdirSync(join(HERE, name, "src")).length) compile(name);
