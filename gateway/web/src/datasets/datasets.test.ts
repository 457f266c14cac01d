import { Code } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ListImagesResponseSchema } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { ImageSchema } from "../gen/atelier/catalog/v1/dataset_pb";
import { changes, edited } from "./captions";
import { pairCaptions } from "./files";
import { withLanded } from "./useImages";
import { outcome, shown, summarize, type Upload, type UploadState } from "./uploads";

const upload = (state: UploadState, share = 0): Upload => ({
  id: crypto.randomUUID(), name: `${state}.png`, state, share, reason: "", message: "",
});

test("a picture takes the caption of the text file of its name, and a caption alone is left out", async () => {
  const files = [
    new File(["x"], "a.png"),
    new File(["  a red apple\n"], "a.txt"),
    new File(["lonely"], "z.txt"),
    new File(["x"], "b.webp"),
    new File(["x"], ".DS_Store"),
  ];
  const pictures = await pairCaptions(files);
  expect(pictures.map(({ file, caption }) => [file.name, caption])).toEqual([["a.png", "a red apple"], ["b.webp", ""]]);
});

test("a mask goes with the picture of its name, and is a picture where there is none", async () => {
  const names = ["a.png", "a-masklabel.png", "b.jpg", "b.mask.png", "c-masklabel.png"];
  const pictures = await pairCaptions(names.map((name) => new File(["x"], name)));
  expect(pictures.map(({ file, mask }) => [file.name, mask?.name])).toEqual([
    ["a.png", "a-masklabel.png"], ["b.jpg", "b.mask.png"], ["c-masklabel.png", undefined],
  ]);
});

test("find and replace comes before the prefix, takes every occurrence, and $ is a dollar", () => {
  expect(edited("a cat, a cat", { prefix: "sks ", find: "cat", replace: "$& dog" })).toBe("sks a $& dog, a $& dog");
});

test("a prefix that is there already is not put twice", () => {
  const edit = { prefix: "sks, ", find: "", replace: "" };
  expect(edited(edited("apple", edit), edit)).toBe("sks, apple");
});

test("captions that stay as they are are not sent", () => {
  const images = ["red apple", "blue star"].map((caption, id) => create(ImageSchema, { id, caption }));
  const planned = changes(images, { prefix: "", find: "red", replace: "green" });
  expect(planned.map(({ image, caption }) => [image.id, caption])).toEqual([[0, "green apple"]]);
});

test("an upload ends as the server's status says", () => {
  const failure = { message: "words", reason: "", fields: {}, retrySeconds: null };
  expect(outcome({ ...failure, code: Code.AlreadyExists }).state).toBe("duplicate");
  expect(outcome({ ...failure, code: Code.InvalidArgument, reason: "UPLOAD_REFUSAL_CORRUPT" })).toEqual({
    state: "refused", reason: "CORRUPT", message: "words",
  });
  expect(outcome({ ...failure, code: Code.Unavailable }).state).toBe("failed");
});

test("the summary counts each file once and is whole when all have ended", () => {
  const summary = summarize([upload("done"), upload("refused"), upload("duplicate"), upload("sending", 0.5), upload("waiting")]);
  expect([summary.total, summary.ended, summary.done, summary.refused, summary.duplicate]).toEqual([5, 3, 1, 1, 1]);
  expect(summary.share).toBeCloseTo((3 + 0.45) / 5);
  expect(summarize([upload("done"), upload("failed")]).share).toBe(1);
});

test("refused files are listed first and never left out", () => {
  const many = [...Array.from({ length: 100 }, () => upload("done")), upload("refused"), upload("sending")];
  const rows = shown(many, 10);
  expect(rows.length).toBe(10);
  expect(rows.map(({ state }) => state).slice(0, 3)).toEqual(["refused", "sending", "done"]);
  expect(shown(Array.from({ length: 50 }, () => upload("refused")), 10).length).toBe(50);
});

const page = (ids: number[], totalSize: number, nextPageToken = "") =>
  create(ListImagesResponseSchema, {
    images: ids.map((id) => create(ImageSchema, { id })), totalSize: BigInt(totalSize), nextPageToken,
  });

test("pictures that land come last where all are loaded, each once, and are only counted where not", () => {
  const landed = [5, 4, 2].map((id) => create(ImageSchema, { id }));
  const all = withLanded({ pages: [page([1], 3, "next"), page([2, 3], 3)], pageParams: [] }, landed);
  expect(all.pages.map(({ images }) => images.map(({ id }) => id))).toEqual([[1], [2, 3, 4, 5]]);
  expect(all.pages.at(-1)?.totalSize).toBe(5n);
  const some = withLanded({ pages: [page([1, 2], 3, "next")], pageParams: [] }, [create(ImageSchema, { id: 9 })]);
  expect([some.pages[0]?.images.length, some.pages[0]?.totalSize]).toEqual([2, 4n]);
});
