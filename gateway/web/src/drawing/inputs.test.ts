import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { emptyDraft } from "./draft";
import { hold, inputOf, leanText, pictureOf, urlOf, withoutUnsent } from "./inputs";

const bytes = new TextEncoder().encode("abc");
const DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const file = (sha256: string) => ({ from: "file", sha256, name: "a.png", preview: "data:", width: 8, height: 6 }) as const;

test("a file's bytes are sent while the page has them, and its digest afterwards", () => {
  expect(inputOf(file(DIGEST)).source).toEqual({ case: "sha256", value: DIGEST });
  expect(urlOf(file(DIGEST)), "the small picture stands in for it").toBe("data:");
  expect(hold(bytes, "image/png")).toBe(DIGEST);
  expect(inputOf(file(DIGEST)).source).toEqual({ case: "data", value: bytes });
  expect(urlOf(file(DIGEST))).toMatch(/^blob:/);
});

test("pictures of a dataset and of other drawings are named, and come back as they were", () => {
  for (const picture of [{ from: "dataset", imageId: 5 }, { from: "gallery", generationId: "g", index: 2 }] as const) {
    expect(pictureOf(inputOf(picture))).toEqual(picture);
  }
  expect(pictureOf(undefined)).toBeNull();
});

test("the session's storage has digests of pictures and not their bytes", () => {
  const data = new Uint8Array(100_000).fill(7);
  const input = { source: { case: "data", value: data } } as const;
  const request = create(GenerateRequestSchema, {
    settings: { prompt: "cat", imageToImage: { image: input, mask: input }, controls: [{ modelId: 9, image: input }] },
  });
  const text = leanText(request);
  expect(text.length).toBeLessThan(1000);
  expect(text.match(/"sha256":"[0-9a-f]{64}"/g)).toHaveLength(3);
  expect(request.settings?.imageToImage?.image?.source.case, "the request itself keeps them").toBe("data");
});

test("after a reload the form leaves files out that were never sent", () => {
  const other = "ab".repeat(32);
  const draft = {
    ...emptyDraft(undefined), begin: file(DIGEST), mask: file(other),
    controls: [{ modelId: 9, image: { from: "dataset", imageId: 5 } as const, weight: 1 as const, start: 0 as const, end: 1 as const }],
  };
  expect(withoutUnsent(draft, new Set([DIGEST, other]))).toEqual(draft);
  const without = withoutUnsent(draft, new Set([DIGEST]));
  expect([without.begin, without.mask, without.controls[0]?.image]).toEqual([draft.begin, null, draft.controls[0]?.image]);
  expect(withoutUnsent(draft, new Set([other])).mask, "a mask is nothing without its picture").toBeNull();
});
