/** A frame that does not come: pages that nobody looks at get none. In ms. */
const LATE_FRAME = 100;

/** Does something at the next frame, or a little later where none comes. */
export function soon(run: () => void): void {
  let isDone = false;
  const once = () => {
    if (isDone) return;
    isDone = true;
    run();
  };
  requestAnimationFrame(once);
  setTimeout(once, LATE_FRAME);
}
