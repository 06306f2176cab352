// Bundles src/ into dist/, which is committed: who installs accelnb needs no Node.js.
//   node build.js           write dist/
//   node build.js --check   fail if dist/ is not what src/ gives
import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const { outputFiles } = await build({
  entryPoints: ["src/run.js", "src/run.css"],
  outdir: "dist",
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  minify: true, // every run that is shown carries this text to its page
  write: false,
});

const checking = process.argv.includes("--check");
for (const { path, text } of outputFiles) {
  if (!checking) {
    await writeFile(path, text);
  } else if (text !== (await readFile(path, "utf8").catch(() => ""))) {
    console.error(`${path} is out of date: run "npm run build" in widgets/`);
    process.exitCode = 1;
  }
}
