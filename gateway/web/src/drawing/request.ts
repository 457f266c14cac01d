import { create } from "@bufbuild/protobuf";
import { type GenerationSettings, PictureFormat, PromptSyntax } from "../gen/atelier/generator/v1/generation_pb";
import { type GenerateRequest, GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { newId } from "../lib/identity";
import { type Amount, type Draft, emptyDraft, NO_GRID } from "./draft";
import { axesOf, cells } from "./axes";
import { inputOf, pictureOf } from "./inputs";
import { linesOf } from "./wildcards";

/** What a request hangs on beside the form. */
export interface Kind {
  /** The model is a LoRA: others refuse a weight. */
  lora: boolean;
  /** The model draws clips: they begin with a picture, and have no words. */
  clips: boolean;
}

export const CLIP_FORMATS: readonly PictureFormat[] = [PictureFormat.MP4, PictureFormat.ANIMATED_WEBP];
/** Those that a quality means something to. */
export const LOSSY: readonly PictureFormat[] = [PictureFormat.WEBP, PictureFormat.JPEG];

/** The chosen format where the model's kind has it, else the kind's own. */
export function formatOf(chosen: PictureFormat, clips: boolean): PictureFormat {
  if (chosen !== PictureFormat.UNSPECIFIED && CLIP_FORMATS.includes(chosen) === clips) return chosen;
  return clips ? PictureFormat.MP4 : PictureFormat.PNG;
}

/** The request that a form stands for. */
export function requestOf(draft: Draft, kind: Kind): GenerateRequest {
  const { steps } = draft;
  const format = draft.format === PictureFormat.UNSPECIFIED ? draft.format : formatOf(draft.format, kind.clips);
  return create(GenerateRequestSchema, {
    requestId: newId(),
    keepDrawing: true, // a page that is loaded again finds its pictures
    previewInterval: previewInterval(steps === "" ? 25 : steps),
    settings: {
      modelId: draft.modelId,
      prompt: kind.clips ? "" : draft.prompt,
      negativePrompt: kind.clips ? "" : draft.negative,
      width: given(draft.width),
      height: given(draft.height),
      steps: given(steps),
      guidanceScale: given(draft.guidance),
      guidanceRescale: given(draft.rescale),
      scheduler: draft.scheduler,
      seed: draft.seed === "" ? undefined : BigInt(draft.seed),
      count: given(draft.count),
      loraWeight: kind.lora ? given(draft.loraWeight) : undefined,
      loras: draft.loras.map(({ modelId, weight }) => ({ modelId, weight: given(weight) })),
      format,
      quality: LOSSY.includes(format) || format === PictureFormat.ANIMATED_WEBP ? given(draft.quality) : undefined,
      promptSyntax: draft.syntax,
      wildcards: draft.syntax === PromptSyntax.PLAIN || kind.clips ? {} : wildcardsOf(draft),
      deterministic: draft.deterministic,
      ...(kind.clips ? clipOf(draft) : picturesOf(draft)),
    },
  });
}

function picturesOf(draft: Draft) {
  return {
    imageToImage: draft.begin
      ? {
          image: inputOf(draft.begin),
          strength: given(draft.strength),
          mask: draft.mask ? inputOf(draft.mask) : undefined,
          maskBlur: draft.mask ? given(draft.maskBlur) : undefined,
        }
      : undefined,
    controls: draft.controls.map(({ modelId, image, weight, start, end }) => ({
      modelId,
      image: image ? inputOf(image) : undefined,
      weight: given(weight),
      start: given(start),
      end: given(end),
    })),
    highResolution: draft.enlarges
      ? { scale: given(draft.scale), strength: given(draft.scaleStrength), steps: given(draft.scaleSteps) }
      : undefined,
  };
}

function clipOf(draft: Draft) {
  return {
    imageToVideo: {
      image: draft.begin ? inputOf(draft.begin) : undefined,
      numFrames: given(draft.frames),
      framesPerSecond: given(draft.fps),
      motionBucketId: given(draft.motion),
      noiseAugmentation: given(draft.noise),
    },
  };
}

function wildcardsOf(draft: Draft): Record<string, { lines: string[] }> {
  const all = draft.wildcards.map(({ name, lines }) => [name.trim(), { lines: linesOf(lines) }] as const);
  return Object.fromEntries(all.filter(([name, { lines }]) => name !== "" && lines.length > 0));
}

/** The request for every combination of the grid's axes: what it says of words, models, weights and seeds goes before the form's. */
export function gridRequestOf(draft: Draft, kind: Kind): GenerateRequest {
  const { prompts, modelIds, weights, seeds } = axesOf(draft.grid);
  const request = requestOf(
    { ...draft, modelId: modelIds[0] ?? draft.modelId, prompt: prompts[0] ?? "", count: "", loras: [] },
    { ...kind, lora: kind.lora && weights.length === 0 },
  );
  const grid = create(GenerateRequestSchema, { settings: { grid: { prompts, modelIds, loraWeights: weights, seeds } } }).settings?.grid;
  if (request.settings && grid) request.settings.grid = grid;
  return request;
}

/** Pictures that come of a request, the sheet of a grid among them. */
export function picturesIn(settings: GenerationSettings | undefined): number {
  if (!settings?.grid) return settings?.count ?? 1;
  const { prompts, modelIds, loraWeights, seeds } = settings.grid;
  return cells({ prompts, modelIds, weights: loraWeights, seeds }) + 1;
}

/** The form that asks for what was drawn; with the seed only where the very same pictures are wanted. */
export function draftOf(settings: GenerationSettings, seed: bigint | null): Draft {
  const { imageToImage: begun, imageToVideo: clip, highResolution: second, grid } = settings;
  const empty = emptyDraft(undefined);
  return {
    modelId: settings.modelId,
    prompt: settings.prompt,
    negative: settings.negativePrompt,
    width: settings.width ?? "",
    height: settings.height ?? "",
    steps: settings.steps ?? "",
    guidance: settings.guidanceScale ?? "",
    rescale: settings.guidanceRescale ?? "",
    scheduler: settings.scheduler,
    seed: seed === null ? "" : Number(seed),
    count: settings.count ?? 1,
    loraWeight: settings.loraWeight ?? 1,
    loras: settings.loras.map(({ modelId, weight }) => ({ modelId, weight: weight ?? 1 })),
    format: settings.format,
    quality: settings.quality ?? empty.quality,
    syntax: settings.promptSyntax,
    wildcards: Object.entries(settings.wildcards).map(([name, { lines }]) => ({ name, lines: lines.join("\n") })),
    deterministic: settings.deterministic,
    begin: pictureOf((begun ?? clip)?.image),
    strength: begun?.strength ?? empty.strength,
    mask: pictureOf(begun?.mask),
    maskBlur: begun?.maskBlur ?? empty.maskBlur,
    frames: clip?.numFrames ?? "",
    fps: clip?.framesPerSecond ?? empty.fps,
    motion: clip?.motionBucketId ?? empty.motion,
    noise: clip?.noiseAugmentation ?? empty.noise,
    controls: settings.controls.map(({ modelId, image, weight, start, end }) => ({
      modelId,
      image: pictureOf(image),
      weight: weight ?? 1,
      start: start ?? 0,
      end: end ?? 1,
    })),
    enlarges: second !== undefined,
    scale: second?.scale ?? empty.scale,
    scaleStrength: second?.strength ?? empty.scaleStrength,
    scaleSteps: second?.steps ?? "",
    grid: grid
      ? {
          prompts: grid.prompts.join("\n"),
          modelIds: grid.modelIds,
          weights: grid.loraWeights.join(", "),
          seeds: grid.seeds.join(", "),
        }
      : NO_GRID,
  };
}

/** Previews about eight times on the way, whatever the number of steps. */
export function previewInterval(steps: number): number {
  return Math.max(1, Math.round(steps / 8));
}

/** A seed for pictures that are to be compared. */
export function anySeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}

function given(amount: Amount): number | undefined {
  return amount === "" ? undefined : amount;
}
