import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  build: {
    // The first versions with light-dark() in CSS: older targets would have it rewritten in a way that Mantine does not know.
    target: ["chrome123", "edge123", "firefox120", "safari17.5"],
    // Everything is a file of its own with a hash in its name: no data: URLs, nothing inline, cached for good.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1600, // the page of the REST paths, which the app itself does not load
    rollupOptions: { input: ["index.html", "api-docs.html"] },
  },
});
