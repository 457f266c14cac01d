import { expect, test } from "vitest";
import { backoff, each } from "./retry";

test("no more than the limit are under way at once, and all are done", async () => {
  let now = 0;
  let most = 0;
  const done: number[] = [];
  await each([1, 2, 3, 4, 5, 6, 7], 3, async (item) => {
    now += 1;
    most = Math.max(most, now);
    await Promise.resolve();
    now -= 1;
    done.push(item);
  });
  expect(most).toBe(3);
  expect(done.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7]);
});

test("nothing new is begun after a stop", async () => {
  const stop = new AbortController();
  const begun: number[] = [];
  await each([1, 2, 3, 4], 1, async (item) => {
    begun.push(item);
    if (item === 2) stop.abort();
  }, stop.signal);
  expect(begun).toEqual([1, 2]);
});

test("a failure ends the rest, and is thrown when nothing is under way any more", async () => {
  const done: number[] = [];
  const work = async (item: number) => {
    if (item === 2) throw new Error("refused");
    await new Promise((resolve) => setTimeout(resolve, 10));
    done.push(item);
  };
  await expect(each([1, 2, 3, 4, 5, 6], 3, work)).rejects.toThrow("refused");
  expect(done.toSorted((a, b) => a - b), "those under way ended, and none was begun").toEqual([1, 3]);
});

test("waits grow and stay bearable", () => {
  expect([1, 2, 3, 10].map(backoff)).toEqual([500, 1000, 2000, 10_000]);
});
