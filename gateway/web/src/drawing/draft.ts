import { create } from "@bufbuild/protobuf";
import { type GenerationSettings, Scheduler } from "../gen/atelier/generator/v1/generation_pb";
import { type GenerateRequest, GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { newId } from "../lib/identity";

/** A number field: empty means unset. */
export type Amount = number | "";

/** What the drawing form holds. */
export interface Draft {
  modelId: number;
  prompt: string;
  negative: string;
  width: Amount;
  height: Amount;
  steps: Amount;
  guidance: Amount;
  scheduler: Scheduler;
  seed: Amount;
  count: Amount;
  loraWeight: Amount;
  loras: readonly { modelId: number; weight: Amount }[];
}

/** The proto field of each field of the form: where the server's messages about it are shown. */
export const FIELDS: Record<keyof Draft, string> = {
  modelId: "settings.model_id",
  prompt: "settings.prompt",
  negative: "settings.negative_prompt",
  width: "settings.width",
  height: "settings.height",
  steps: "settings.steps",
  guidance: "settings.guidance_scale",
  scheduler: "settings.scheduler",
  seed: "settings.seed",
  count: "settings.count",
  loraWeight: "settings.lora_weight",
  loras: "settings.loras",
};

/** An empty form, with what this deployment does by default. */
export function emptyDraft(defaults: GenerationSettings | undefined): Draft {
  return {
    modelId: 0,
    prompt: "",
    negative: "",
    width: "",
    height: "",
    steps: defaults?.steps ?? "",
    guidance: defaults?.guidanceScale ?? "",
    scheduler: Scheduler.UNSPECIFIED,
    seed: "",
    count: defaults?.count ?? 1,
    loraWeight: defaults?.loraWeight ?? 1,
    loras: [],
  };
}

/** The form that asks for what was drawn; with the seed only where the very same pictures are wanted. */
export function draftOf(settings: GenerationSettings, seed: bigint | null): Draft {
  return {
    modelId: settings.modelId,
    prompt: settings.prompt,
    negative: settings.negativePrompt,
    width: settings.width ?? "",
    height: settings.height ?? "",
    steps: settings.steps ?? "",
    guidance: settings.guidanceScale ?? "",
    scheduler: settings.scheduler,
    seed: seed === null ? "" : Number(seed),
    count: settings.count ?? 1,
    loraWeight: settings.loraWeight ?? 1,
    loras: settings.loras.map(({ modelId, weight }) => ({ modelId, weight: weight ?? 1 })),
  };
}

/** Previews about eight times on the way, whatever the number of steps. */
export function previewInterval(steps: number): number {
  return Math.max(1, Math.round(steps / 8));
}

/** The request that a form stands for. A LoRA weight is for models that are a LoRA: others refuse it. */
export function requestOf(draft: Draft, ofLora: boolean): GenerateRequest {
  const { steps } = draft;
  return create(GenerateRequestSchema, {
    requestId: newId(),
    keepDrawing: true, // a page that is loaded again finds its pictures
    previewInterval: previewInterval(steps === "" ? 25 : steps),
    settings: {
      modelId: draft.modelId,
      prompt: draft.prompt,
      negativePrompt: draft.negative,
      width: given(draft.width),
      height: given(draft.height),
      steps: given(steps),
      guidanceScale: given(draft.guidance),
      scheduler: draft.scheduler,
      seed: draft.seed === "" ? undefined : BigInt(draft.seed),
      count: given(draft.count),
      loraWeight: ofLora ? given(draft.loraWeight) : undefined,
      loras: draft.loras.map(({ modelId, weight }) => ({ modelId, weight: given(weight) })),
    },
  });
}

/** A seed for pictures that are to be compared. */
export function anySeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}

function given(amount: Amount): number | undefined {
  return amount === "" ? undefined : amount;
}
