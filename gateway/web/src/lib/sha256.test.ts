import { expect, test } from "vitest";
import { sha256 } from "./sha256";

// Of the bytes (31 i) mod 256 for i from 3 on, by another program.
const DIGESTS: [number, string][] = [
  [0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
  [1, "cfae0d4248f7142f7b17f826cd7a519280e312577690e957830d23dcf35a3fff"],
  [55, "2dff47d21a32fa25363653b0c3e9577e0284457d6e6cda5990ed7c6573e82a76"],
  [56, "3f6105f525371063d6b3a4453ac38c350f80aff7a0e847cec3f069fb4e098f7d"],
  [63, "00a2ad8f246f81bfa08b514a59698fb6d607332164bbbf74d257ec7170df1a2d"],
  [64, "c03e11fe3e2b0d6f63b1a54389799ac1781300608415b222a7088fa2e65c566d"],
  [65, "49b6e233dd748c12a47c17ce4a0d3884e38eb5d0bd8ea5618556f34227baa4c4"],
  [119, "7cda88625ed6df553838f630dc9b18b70098520ceca1bac9d5e1d78272836963"],
  [120, "e6c5c51aaa05508c638219bb264b878c4f0c8d9cf445f4672d21100a5c051325"],
  [128, "f517b1c71652fe2f417d0cd20ef61a6773b397bab432bd2d23726927eb4de8bf"],
  [1000, "653266429e46e3d2e73253e074fa922d3fc8b8eac6c2089d803a5a17eedef5a6"],
];

test("digests are those of the standard, whatever the length", () => {
  expect(sha256(new TextEncoder().encode("abc"))).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  for (const [length, digest] of DIGESTS) {
    const bytes = Uint8Array.from({ length: length + 3 }, (_, i) => (i * 31) % 256).subarray(3); // not at its buffer's beginning
    expect(sha256(bytes), `${length}`).toBe(digest);
  }
});

test("a large photo takes less than a few seconds", () => {
  const begun = performance.now();
  sha256(new Uint8Array(8_000_000));
  expect(performance.now() - begun).toBeLessThan(4000);
});
