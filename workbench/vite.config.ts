import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** What the page was built from, so that a test can tell a page that is older than its sources. */
function sourcesDigest(): Plugin {
  return {
    name: "sources-digest",
    generateBundle() {
      const files = ["index.html", "package-lock.json", "vite.config.ts"];
      for (const folder of ["src", "public"]) files.push(...readdirSync(folder).map((name) => `${folder}/${name}`));
      const digest = createHash("sha256");
      for (const file of files.sort()) digest.update(`${file}\n`).update(readFileSync(join(import.meta.dirname, file)));
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: digest.digest("hex") + "\n" });
    },
  };
}

// The page is built into the Python package, so that a wheel ships it and nobody needs node to use it.
export default defineConfig({
  base: "./",
  plugins: [sourcesDigest()],
  build: {
    outDir: "../src/pathflip/workbench/static",
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 1000,
    // No data: addresses and no inline script: the content security policy allows neither.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: {
        entryFileNames: "assets/[name].js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
