import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ModelCategory, ModelFamily, ModelSchema, ModelType, WeightsLayout } from "../gen/atelier/catalog/v1/model_pb";
import { GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { GenerationSettingsSchema } from "../gen/atelier/generator/v1/generation_pb";
import { drawable, fittingLoras, modelLabels } from "./choices";
import { draftOf, emptyDraft, FIELDS, previewInterval, requestOf } from "./draft";

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
const lora = (id: number, baseModelId: number, more: object = {}) =>
  model(id, { type: ModelType.LORA, layout: WeightsLayout.LORA, baseModelId, ...more });

test("models that are inactive, of video, ControlNets or of a family this deployment cannot draw are not offered", () => {
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
  const request = requestOf(draftOf(settings, settings.seed ?? null), true);
  expect({ ...request.settings, $unknown: undefined }).toEqual({ ...settings, $unknown: undefined });
  expect(requestOf(draftOf(settings, null), true).settings?.seed, "another seed unless it is asked for").toBeUndefined();
});

test("a model that is not a LoRA is not asked for a LoRA weight", () => {
  expect(requestOf({ ...emptyDraft(undefined), loraWeight: 0.5 }, false).settings?.loraWeight).toBeUndefined();
  expect(requestOf({ ...emptyDraft(undefined), loraWeight: 0.5 }, true).settings?.loraWeight).toBe(0.5);
});

test("there are previews on short and on long ways", () => {
  expect([previewInterval(1), previewInterval(4), previewInterval(25), previewInterval(200)]).toEqual([1, 1, 3, 25]);
});

test("every field of the form names a field that is in the contract", () => {
  const settings = GenerateRequestSchema.fields.find((field) => field.name === "settings")?.message;
  for (const path of Object.values(FIELDS)) {
    expect(settings?.fields.map((field) => `settings.${field.name}`)).toContain(path);
  }
});
