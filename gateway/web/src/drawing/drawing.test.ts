import { create, type DescField, type DescMessage } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ModelCategory, ModelFamily, ModelSchema, ModelType, WeightsLayout } from "../gen/atelier/catalog/v1/model_pb";
import { GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { GenerationSettingsSchema, PictureFormat, PromptSyntax } from "../gen/atelier/generator/v1/generation_pb";
import { drawable, fittingControls, fittingLoras, modelLabels } from "./choices";
import { emptyDraft, FIELDS, nameOf, NO_GRID, pageOf, problemsOf } from "./draft";
import { draftOf, formatOf, gridRequestOf, type Kind, picturesIn, previewInterval, requestOf } from "./request";

const model = (id: number, more: object = {}) =>
  create(ModelSchema, {
    id,
    name: `model ${id}`,
    isActive: true,
    category: ModelCategory.IMAGE,
    family: ModelFamily.STABLE_DIFFUSION,
    type: ModelType.BASE_MODEL,
    layout: WeightsLayout.PIPELINE,
    ...more,
  });
const PLAIN: Kind = { lora: false, clips: false };
const LORA: Kind = { lora: true, clips: false };
const CLIPS: Kind = { lora: false, clips: true };
const lora = (id: number, baseModelId: number, more: object = {}) =>
  model(id, { type: ModelType.LORA, layout: WeightsLayout.LORA, baseModelId, ...more });

test("models that are inactive, ControlNets or of a family this deployment cannot draw are not offered, nor clips where it draws none", () => {
  const models = [
    model(1),
    model(2, { family: ModelFamily.STABLE_DIFFUSION_XL }),
    model(3, { category: ModelCategory.VIDEO }),
    model(4, { type: ModelType.CONTROLNET, layout: WeightsLayout.CONTROLNET }),
    lora(101, 1),
    lora(102, 1),
    lora(103, 1, { isActive: false }),
  ];
  const { bases, trained } = drawable(models, [ModelFamily.STABLE_DIFFUSION]);
  expect(bases.map(({ id }) => id)).toEqual([1]);
  expect(trained.map(({ id }) => id), "the newest first").toEqual([102, 101]);
  expect(drawable(models, [], [ModelFamily.STABLE_DIFFUSION]).bases.map(({ id }) => id)).toEqual([3]);
});

test("ControlNets are offered for models of their family, where this deployment loads them", () => {
  const models = [model(1), model(2, { family: ModelFamily.STABLE_DIFFUSION_XL }), model(4, { type: ModelType.CONTROLNET })];
  expect(fittingControls(models[0], models, [ModelFamily.STABLE_DIFFUSION]).map(({ id }) => id)).toEqual([4]);
  expect(fittingControls(models[1], models, [ModelFamily.STABLE_DIFFUSION])).toEqual([]);
  expect(fittingControls(models[0], models, [])).toEqual([]);
});

test("two models of one name are told apart", () => {
  const labels = modelLabels([model(1, { name: "a" }), model(2, { name: "a" }), model(3, { name: "b" })]);
  expect([...labels.values()]).toEqual(["a (1)", "a (2)", "b"]);
});

test("LoRAs fit beside a model when they have its base", () => {
  const models = [model(1), model(4), lora(101, 1), lora(102, 1), lora(103, 4)];
  expect(fittingLoras(models[0], models).map(({ id }) => id)).toEqual([101, 102]);
  expect(fittingLoras(models[2], models).map(({ id }) => id)).toEqual([102]);
});

test("a picture's settings make the form that draws it again", () => {
  const settings = create(GenerationSettingsSchema, {
    modelId: 101, prompt: "red apple", width: 64, height: 96, steps: 12, guidanceScale: 0, seed: 9007199254740991n,
    count: 3, loraWeight: 0.7, loras: [{ modelId: 102, weight: 0 }],
  });
  const request = requestOf(draftOf(settings, settings.seed ?? null), LORA);
  expect({ ...request.settings, $unknown: undefined }).toEqual({ ...settings, $unknown: undefined });
  expect(requestOf(draftOf(settings, null), LORA).settings?.seed, "another seed unless it is asked for").toBeUndefined();
});

test("a model that is not a LoRA is not asked for a LoRA weight", () => {
  expect(requestOf({ ...emptyDraft(undefined), loraWeight: 0.5 }, PLAIN).settings?.loraWeight).toBeUndefined();
  expect(requestOf({ ...emptyDraft(undefined), loraWeight: 0.5 }, LORA).settings?.loraWeight).toBe(0.5);
});

test("there are previews on short and on long ways", () => {
  expect([previewInterval(1), previewInterval(4), previewInterval(25), previewInterval(200)]).toEqual([1, 1, 3, 25]);
});

const FULL = create(GenerationSettingsSchema, {
  modelId: 4, prompt: "a __animal__", negativePrompt: "blur", width: 64, height: 64, steps: 8, guidanceScale: 5, guidanceRescale: 0.7,
  scheduler: 5, seed: 11n, count: 2, format: PictureFormat.WEBP, quality: 70, promptSyntax: PromptSyntax.WEIGHTED,
  wildcards: { animal: { lines: ["cat", "dog"] } }, deterministic: true,
  imageToImage: {
    image: { source: { case: "generated", value: { generationId: "g", index: 3 } } },
    strength: 0.4,
    mask: { source: { case: "sha256", value: "ab".repeat(32) } },
    maskBlur: 9,
  },
  controls: [{ modelId: 9, image: { source: { case: "datasetImageId", value: 12n } }, weight: 0.5, start: 0.1, end: 0.6 }],
  highResolution: { scale: 1.5, strength: 0.3, steps: 6 },
});

test("whatever was asked for makes the form that asks for it again", () => {
  expect({ ...requestOf(draftOf(FULL, 11n), PLAIN).settings, $unknown: undefined }).toEqual({ ...FULL, $unknown: undefined });
  const clip = create(GenerationSettingsSchema, {
    modelId: 3, guidanceScale: 3, format: PictureFormat.ANIMATED_WEBP, quality: 80, count: 1, promptSyntax: PromptSyntax.WEIGHTED,
    imageToVideo: {
      image: { source: { case: "sha256", value: "cd".repeat(32) } },
      numFrames: 14, framesPerSecond: 6, motionBucketId: 90, noiseAugmentation: 0.1,
    },
  });
  expect({ ...requestOf(draftOf(clip, null), CLIPS).settings, $unknown: undefined }).toEqual({ ...clip, $unknown: undefined });
});

test("a model of clips is asked for what clips have, and one of pictures for nothing of theirs", () => {
  const draft = { ...draftOf(FULL, null), frames: 14 as const };
  const asked = requestOf(draft, CLIPS).settings;
  expect(asked?.imageToVideo?.image?.source.case).toBe("generated");
  expect(asked?.imageToVideo?.numFrames).toBe(14);
  expect([asked?.imageToImage, asked?.highResolution, asked?.prompt, asked?.negativePrompt]).toEqual([undefined, undefined, "", ""]);
  expect([asked?.controls, asked?.wildcards]).toEqual([[], {}]);
  expect(asked?.format, "a picture's format is no clip's").toBe(PictureFormat.MP4);
  expect(requestOf(draft, PLAIN).settings?.imageToVideo).toBeUndefined();
  expect([formatOf(PictureFormat.MP4, false), formatOf(PictureFormat.JPEG, false)]).toEqual([PictureFormat.PNG, PictureFormat.JPEG]);
});

test("a quality goes with formats that have one, and a mask's blur with a mask", () => {
  const draft = { ...draftOf(FULL, null), mask: null };
  expect(requestOf(draft, PLAIN).settings?.imageToImage?.maskBlur).toBeUndefined();
  expect(requestOf({ ...draft, format: PictureFormat.PNG }, PLAIN).settings?.quality).toBeUndefined();
  expect(requestOf({ ...draft, syntax: PromptSyntax.PLAIN }, PLAIN).settings?.wildcards, "signs mean nothing then").toEqual({});
  expect(requestOf({ ...draft, enlarges: false }, PLAIN).settings?.highResolution).toBeUndefined();
});

test("lists without a name or a line are left out of the request", () => {
  const wildcards = [{ name: "animal", lines: "cat\n\n# not a dog\n fox " }, { name: "", lines: "x" }, { name: "none", lines: "#" }];
  const asked = requestOf({ ...emptyDraft(undefined), wildcards }, PLAIN).settings?.wildcards;
  expect(Object.entries(asked ?? {}).map(([name, { lines }]) => [name, lines])).toEqual([["animal", ["cat", "fox"]]]);
});

test("a grid is asked for by its axes, and leaves count and more LoRAs out", () => {
  const draft = {
    ...emptyDraft(undefined), count: 4 as const, seed: 7 as const, loras: [{ modelId: 102, weight: 1 as const }],
    grid: { prompts: "a cat\n\na dog\na cat", modelIds: [101, 1], weights: "0.5, 1", seeds: "1 2,3" },
  };
  const request = gridRequestOf(draft, LORA);
  const { settings } = request;
  expect(settings?.grid).toMatchObject({ prompts: ["a cat", "a dog"], modelIds: [101, 1], loraWeights: [0.5, 1], seeds: [1n, 2n, 3n] });
  expect([settings?.modelId, settings?.prompt, settings?.count, settings?.loraWeight, settings?.loras]).toEqual([101, "a cat", undefined, undefined, []]);
  expect(picturesIn(settings), "two prompts, two models, two weights, three seeds and the sheet").toBe(25);
  const again = settings && draftOf(settings, null);
  expect(again?.grid).toEqual({ prompts: "a cat\na dog", modelIds: [101, 1], weights: "0.5, 1", seeds: "1, 2, 3" });
  expect(again && pageOf(again)).toBe("/text-to-image/grid");
  expect(pageOf({ ...draft, grid: NO_GRID })).toBe("/text-to-image");
});

test("what the server says of a part of a field is shown at the field that it is in", () => {
  expect(nameOf("settings.image_to_image.image")).toBe("begin");
  expect(nameOf("settings.image_to_video.image")).toBe("begin");
  expect(nameOf("settings.image_to_image.mask_blur")).toBe("maskBlur");
  expect(nameOf("settings.controls[1].end")).toBe("controls");
  expect(nameOf("settings.wildcards['a'].lines[3]")).toBe("wildcards");
  expect(nameOf("settings.high_resolution")).toBe("enlarges");
  expect(nameOf("settings.promptly")).toBeNull();
  const failure = { code: 3, message: "", reason: "", retrySeconds: null, fields: { "settings.loras[0].weight": "too much", other: "x" } };
  expect(problemsOf(failure)).toEqual({ loras: "too much" });
});

test("every field of the form names a field that is in the contract", () => {
  for (const path of Object.values(FIELDS).flat()) {
    let message: DescMessage | undefined = GenerateRequestSchema;
    for (const part of path.split(".")) {
      const field: DescField | undefined = message?.fields.find(({ name }) => name === part);
      expect(field, path).toBeDefined();
      message = field?.message;
    }
  }
});
