import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { CreateTrainingJobRequestSchema } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { PredictionType, TrainingConfigSchema, TrainingMethod } from "../gen/atelier/trainer/v1/training_pb";
import { type Draft, draftOf, FIELDS, requestOf } from "./draft";

const defaults = create(TrainingConfigSchema, { learningRate: 1e-4, batchSize: 4, epochs: 10, lora: { rank: 4 } });
const made = (changes: Partial<Draft>, video = false) =>
  create(CreateTrainingJobRequestSchema, requestOf({ ...draftOf(defaults, 7, 4), ...changes }, "id", false, video));

test("the form begins with the deployment's defaults and asks for them", () => {
  const { config, datasetId, baseModelId } = made({});
  expect([datasetId, baseModelId]).toEqual([7, 4]);
  expect([config?.learningRate, config?.batchSize, config?.epochs, config?.lora?.rank]).toEqual([1e-4, 4, 10, 4]);
});

test("an emptied field is unset and a zero is a zero", () => {
  const { config } = made({ batchSize: "", seed: 0, warmup: 0, maxGradNorm: 0 });
  expect(config?.batchSize).toBeUndefined();
  expect(config?.seed).toBe(0n);
  expect(config?.warmupSteps).toBe(0);
  expect(config?.maxGradNorm).toBe(0);
});

test("what a method does not read is left out", () => {
  const filled = { instancePrompt: "a photo of sks dog", rank: 8 } as const;
  expect(made({ ...filled, method: TrainingMethod.FULL }).config?.lora).toBeUndefined();
  expect(made({ ...filled, method: TrainingMethod.LORA }).config?.dreambooth).toBeUndefined();
  const dreambooth = made({ ...filled, method: TrainingMethod.DREAMBOOTH }).config;
  expect([dreambooth?.dreambooth?.instancePrompt, dreambooth?.lora?.rank]).toEqual(["a photo of sks dog", 8]);
  expect(made({ ...filled, method: TrainingMethod.DREAMBOOTH, dreamboothFull: true }).config?.lora).toBeUndefined();
});

test("a class that is a dataset is not drawn, and is read where the class is kept alone", () => {
  const asked = { method: TrainingMethod.DREAMBOOTH, classDatasetId: 9, classImages: 50 } as const;
  const kept = made({ ...asked, priorPreservation: true }).config?.dreambooth;
  expect([kept?.classDatasetId, kept?.numClassImages]).toEqual([9, undefined]);
  expect(made({ ...asked, priorPreservation: false }).config?.dreambooth?.classDatasetId).toBeUndefined();
});

test("what only whole models have is left out for a LoRA, and what LoRAs have for whole models", () => {
  const asked = { heldOut: 0.125, zeroSnr: true, prediction: PredictionType.V_PREDICTION, rslora: true } as const;
  const lora = made({ ...asked, method: TrainingMethod.LORA }).config;
  expect([lora?.validation?.share, lora?.zeroTerminalSnr, lora?.predictionType, lora?.lora?.rslora]).toEqual([0.125, false, 0, true]);
  const full = made({ ...asked, method: TrainingMethod.FULL }).config;
  expect([full?.zeroTerminalSnr, full?.predictionType]).toEqual([true, PredictionType.V_PREDICTION]);
  expect(made({ keepTags: 2 }).config?.captionKeepTags).toBeUndefined();
});

test("sample prompts are one a line, blank lines left out", () => {
  expect(made({ samplePrompts: " red apple \n\n blue star" }).config?.samples?.prompts).toEqual(["red apple", "blue star"]);
});

test("every field of the form names a field that is in the contract", () => {
  for (const path of Object.values(FIELDS)) {
    let message: typeof CreateTrainingJobRequestSchema | undefined = CreateTrainingJobRequestSchema;
    for (const name of path.split(".")) {
      const field: (typeof CreateTrainingJobRequestSchema.fields)[number] | undefined = message?.fields.find((each) => each.name === name);
      expect(field, path).toBeDefined();
      message = field?.message as typeof message;
    }
  }
});

test("settings of clips are of models that draw clips, and prompts of the others", () => {
  const asked = { frames: 8, sampleClips: 2, samplePrompts: "a cat" } as const;
  const clips = made(asked, true).config;
  expect([clips?.video?.numFrames, clips?.samples?.clips, clips?.samples?.prompts]).toEqual([8, 2, []]);
  const pictures = made(asked).config;
  expect([pictures?.video, pictures?.samples?.clips, pictures?.samples?.prompts]).toEqual([undefined, undefined, ["a cat"]]);
});
