import { expect, test } from "vitest";
import { formats } from "./format";

const en = formats("en");
const fr = formats("fr");
/** Narrow and no-break spaces as plain ones, so that expectations can be read. */
const plain = (text: string) => text.replaceAll(/[\u00a0\u202f]/g, " ");

test("sizes are written in the units of the language", () => {
  expect(en.bytes(0)).toBe("0 B");
  expect(en.bytes(999)).toBe("999 B");
  expect(en.bytes(1234)).toBe("1.2 KB");
  expect(en.bytes(3_400_000_000n)).toBe("3.4 GB");
  expect(plain(fr.bytes(1234))).toBe("1,2 Ko");
});

test("a duration has its two largest parts", () => {
  expect(en.duration(0)).toBe("0 s");
  expect(en.duration(850)).toBe("1 s");
  expect(en.duration(75_000)).toBe("1 min 15 s");
  expect(en.duration(7_500_000n)).toBe("2 h 5 min");
  expect(en.duration(3_600_000)).toBe("1 h");
  expect(en.duration(-5)).toBe("0 s");
  expect(en.duration(93_600_000)).toBe("1 d 2 h");
  expect(fr.duration(93_600_000)).toBe("1 j 2 h");
});

test("a hundred percent is said at the end and not a step before", () => {
  expect(en.percent(0.999)).toBe("99%");
  expect(en.percent(1)).toBe("100%");
  expect(en.percent(Number.NaN)).toBe("0%");
  expect(plain(fr.percent(0.5))).toBe("50 %");
});

test("small rates keep their digits", () => {
  expect(en.decimal(0.0001)).toBe("1E-4");
  expect(en.decimal(0.061234)).toBe("0.06123");
  expect(plain(fr.decimal(0.5))).toBe("0,5");
});
