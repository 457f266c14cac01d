// Draws every icon of the Fluent high-contrast set as a PNG: node rasterise.mjs <cache folder> <pixels>
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [cache, pixels] = [process.argv[2], Number(process.argv[3])];
const { Resvg } = createRequire(join(cache, "package.json"))("@resvg/resvg-js");
const set = JSON.parse(readFileSync(join(cache, "node_modules/@iconify-json/fluent-emoji-high-contrast/icons.json"), "utf8"));
const out = join(cache, `icons-${pixels}`);
mkdirSync(out, { recursive: true });
for (const [name, icon] of Object.entries(set.icons)) {
  const box = `${icon.left ?? 0} ${icon.top ?? 0} ${icon.width ?? set.width ?? set.height} ${icon.height ?? set.height}`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box}" color="black">${icon.body}</svg>`;
  const image = new Resvg(svg, { fitTo: { mode: "width", value: pixels }, background: "white" }).render();
  writeFileSync(join(out, `${name}.png`), image.asPng());
}
