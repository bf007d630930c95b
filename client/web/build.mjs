// Bundles the page: node build.mjs FOLDER
//
// Every file but index.html has a hash in its name, so that browsers keep it for good. Beside each
// is its compressed form, as the gateway sends it.
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";

const folder = path.resolve(process.argv[2]);
const here = import.meta.dirname;
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: "es2022",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  outdir: path.join(folder, "assets"),
  legalComments: "linked",
  logLevel: "warning",
};
const outputOf = (result, entry) =>
  path.basename(
    Object.entries(result.metafile.outputs).find(([, made]) => made.entryPoint === entry)[0],
  );

const worker = await build({ ...common, entryPoints: ["source/worker.ts"] });
const page = await build({
  ...common,
  entryPoints: ["source/main.tsx", "source/styles.css"],
  splitting: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".svg": "file" },
  define: { WORKER: JSON.stringify(`/assets/${outputOf(worker, "source/worker.ts")}`) },
});
const icon = path.basename(
  Object.keys(
    (await build({ ...common, entryPoints: ["source/icon.svg"], loader: { ".svg": "copy" } })).metafile
      .outputs,
  )[0],
);
writeFileSync(
  path.join(folder, "index.html"),
  readFileSync(path.join(here, "source/index.html"), "utf8")
    .replace("{icon}", icon)
    .replace("{script}", outputOf(page, "source/main.tsx"))
    .replace("{style}", outputOf(page, "source/styles.css")),
);

for (const place of [folder, path.join(folder, "assets")]) {
  for (const entry of readdirSync(place, { withFileTypes: true })) {
    const file = path.join(place, entry.name);
    if (!entry.isFile()) continue;
    const content = readFileSync(file);
    if (content.length < 512) continue;
    const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
    writeFileSync(`${file}.br`, brotliCompressSync(content, quality));
    writeFileSync(`${file}.gz`, gzipSync(content, { level: 9 }));
  }
}
