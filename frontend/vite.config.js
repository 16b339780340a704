import { defineConfig } from "vite";

// `npm run dev` serves the page itself and passes everything else to a Quicket on its usual port.
const quicket = process.env.QUICKET_URL ?? "http://localhost:3000";

export default defineConfig({
  build: {
    // Nothing inline, so that the server can forbid inline scripts and styles.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      "/socket.io": { target: quicket, ws: true },
      "/webtransport.json": quicket,
    },
  },
});
