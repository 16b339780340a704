// Puts the official client's bundles beside the page, so that the binary can serve them as Node's
// `serveClient` does (/socket.io/socket.io.js and its variants).
import { cp, mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const from = dirname(require.resolve("socket.io-client/dist/socket.io.js"));
const to = join(dirname(fileURLToPath(import.meta.url)), "../dist/socket.io");

await mkdir(to, { recursive: true });
for (const bundle of ["socket.io", "socket.io.min", "socket.io.esm.min", "socket.io.msgpack.min"]) {
  for (const extension of ["js", "js.map"]) {
    await cp(join(from, `${bundle}.${extension}`), join(to, `${bundle}.${extension}`));
  }
}
