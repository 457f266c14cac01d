/** Waits `millis`, less if the browser comes back online, and not at all once `signal` is aborted. */
export function wait(millis: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const finish = () => {
      clearTimeout(timer);
      removeEventListener("online", finish);
      signal.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, millis);
    addEventListener("online", finish);
    signal.addEventListener("abort", finish);
  });
}

/** Milliseconds to wait before try number `attempt` (from 1): half a second, doubling, ten seconds at most. */
export function backoff(attempt: number): number {
  return Math.min(10_000, 500 * 2 ** (attempt - 1));
}

/**
 * Calls `work` for each item, at most `limit` at once, until `signal` is aborted or one fails. Throws that failure once
 * nothing is under way any more, so that whoever looks at what was done sees all of it.
 */
export async function each<Item>(
  items: readonly Item[],
  limit: number,
  work: (item: Item) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  let next = 0;
  const failures: unknown[] = [];
  const lane = async () => {
    // oxlint-disable-next-line no-unmodified-loop-condition -- whoever holds its controller does
    while (next < items.length && failures.length === 0 && !signal?.aborted) {
      const item = items[next] as Item;
      next += 1;
      try {
        // a lane works one after another
        await work(item);
      } catch (failure) {
        failures.push(failure);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, lane));
  if (failures.length > 0) throw failures[0];
}
