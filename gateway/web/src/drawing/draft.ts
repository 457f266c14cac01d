import type { Failure } from "../api/errors";
import { type GenerationSettings, PictureFormat, PromptSyntax, Scheduler } from "../gen/atelier/generator/v1/generation_pb";
import type { Picture } from "./inputs";
import type { Wildcard } from "./wildcards";

/** A number field: empty means unset. */
export type Amount = number | "";

/** A ControlNet and what it is shown. */
export interface ControlDraft {
  modelId: number;
  image: Picture | null;
  weight: Amount;
  start: Amount;
  end: Amount;
}

/** The axes of a grid, as they are written. */
export interface GridDraft {
  /** One a line. */
  prompts: string;
  modelIds: readonly number[];
  weights: string;
  seeds: string;
}

/** What the drawing form holds. */
export interface Draft {
  modelId: number;
  prompt: string;
  negative: string;
  width: Amount;
  height: Amount;
  steps: Amount;
  guidance: Amount;
  rescale: Amount;
  scheduler: Scheduler;
  seed: Amount;
  count: Amount;
  loraWeight: Amount;
  loras: readonly { modelId: number; weight: Amount }[];
  format: PictureFormat;
  quality: Amount;
  syntax: PromptSyntax;
  wildcards: readonly Wildcard[];
  deterministic: boolean;
  /** What is drawn over, or set in motion by a model that draws clips. */
  begin: Picture | null;
  strength: Amount;
  mask: Picture | null;
  maskBlur: Amount;
  frames: Amount;
  fps: Amount;
  motion: Amount;
  noise: Amount;
  controls: readonly ControlDraft[];
  enlarges: boolean;
  scale: Amount;
  scaleStrength: Amount;
  scaleSteps: Amount;
  grid: GridDraft;
}

/** The proto fields of each field of the form: where the server's messages about them are shown. */
export const FIELDS: Record<keyof Draft, readonly string[]> = {
  modelId: ["settings.model_id"],
  prompt: ["settings.prompt"],
  negative: ["settings.negative_prompt"],
  width: ["settings.width"],
  height: ["settings.height"],
  steps: ["settings.steps"],
  guidance: ["settings.guidance_scale"],
  rescale: ["settings.guidance_rescale"],
  scheduler: ["settings.scheduler"],
  seed: ["settings.seed"],
  count: ["settings.count"],
  loraWeight: ["settings.lora_weight"],
  loras: ["settings.loras"],
  format: ["settings.format"],
  quality: ["settings.quality"],
  syntax: ["settings.prompt_syntax"],
  wildcards: ["settings.wildcards"],
  deterministic: ["settings.deterministic"],
  begin: ["settings.image_to_image", "settings.image_to_video"],
  strength: ["settings.image_to_image.strength"],
  mask: ["settings.image_to_image.mask"],
  maskBlur: ["settings.image_to_image.mask_blur"],
  frames: ["settings.image_to_video.num_frames"],
  fps: ["settings.image_to_video.frames_per_second"],
  motion: ["settings.image_to_video.motion_bucket_id"],
  noise: ["settings.image_to_video.noise_augmentation"],
  controls: ["settings.controls"],
  enlarges: ["settings.high_resolution"],
  scale: ["settings.high_resolution.scale"],
  scaleStrength: ["settings.high_resolution.strength"],
  scaleSteps: ["settings.high_resolution.steps"],
  grid: ["settings.grid"],
};

/** The form's field that a path of the contract belongs to: the one that names most of it. */
export function nameOf(path: string): keyof Draft | null {
  let best: keyof Draft | null = null;
  let length = 0;
  for (const [name, paths] of Object.entries(FIELDS)) {
    for (const each of paths) {
      const within = path === each || path.startsWith(`${each}.`) || path.startsWith(`${each}[`);
      if (within && each.length > length) [best, length] = [name as keyof Draft, each.length];
    }
  }
  return best;
}

/** What the server said of each field of the form. */
export function problemsOf(failure: Failure | null): Partial<Record<keyof Draft, string>> {
  const problems: Partial<Record<keyof Draft, string>> = {};
  for (const [path, rule] of Object.entries(failure?.fields ?? {})) {
    const name = nameOf(path);
    if (name) problems[name] ??= rule;
  }
  return problems;
}

export const NO_GRID: GridDraft = { prompts: "", modelIds: [], weights: "", seeds: "" };

/** An empty form, with what this deployment does by default; what it does not tell is as the contract says. */
export function emptyDraft(defaults: GenerationSettings | undefined): Draft {
  return {
    modelId: 0,
    prompt: "",
    negative: "",
    width: "",
    height: "",
    steps: defaults?.steps ?? "",
    guidance: defaults?.guidanceScale ?? "",
    rescale: defaults?.guidanceRescale ?? 0,
    scheduler: Scheduler.UNSPECIFIED,
    seed: "",
    count: defaults?.count ?? 1,
    loraWeight: defaults?.loraWeight ?? 1,
    loras: [],
    format: PictureFormat.UNSPECIFIED,
    quality: defaults?.quality ?? 90,
    syntax: PromptSyntax.WEIGHTED,
    wildcards: [],
    deterministic: false,
    begin: null,
    strength: 0.75,
    mask: null,
    maskBlur: 4,
    frames: "",
    fps: 7,
    motion: 127,
    noise: 0.02,
    controls: [],
    enlarges: false,
    scale: 2,
    scaleStrength: 0.5,
    scaleSteps: "",
    grid: NO_GRID,
  };
}

/** The page whose form asks for this. */
export function pageOf({ grid }: Draft): "/text-to-image" | "/text-to-image/grid" {
  const isGrid = grid.prompts !== "" || grid.modelIds.length > 0 || grid.weights !== "" || grid.seeds !== "";
  return isGrid ? "/text-to-image/grid" : "/text-to-image";
}
