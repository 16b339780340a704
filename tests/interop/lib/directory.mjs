// Where a Redis of a test keeps its data.
import { existsSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MEMORY = "/dev/shm";

/**
 * In memory, where there is such a place: a disk that takes its time over an fsync is not what is tested. Redis is
 * killed at most, never the machine, so what it has written is there when it comes back.
 */
export function dataDirectory() {
  return mkdtemp(join(existsSync(MEMORY) ? MEMORY : tmpdir(), "quicket-redis-"));
}
