import { type Generation, type GenerationSettings, PromptSyntax } from "../gen/atelier/generator/v1/generation_pb";
import type { Words } from "../i18n/en";
import type { Formats } from "../lib/format";
import { LOSSY } from "./request";

interface Telling {
  words: Words;
  format: Formats;
  /** A model's name. */
  label: (id: number) => string;
  scheduler: string;
}

/** The words that something was drawn from: of a grid, all of them. */
export function wordsOf(settings: GenerationSettings | undefined): string {
  return settings?.grid?.prompts.length ? settings.grid.prompts.join(" · ") : (settings?.prompt ?? "");
}

/** How something was drawn, as names and values: every setting that the server filled in and that means something. */
export function rowsOf(
  { modelName, createdAt, principal }: Generation,
  settings: GenerationSettings,
  { words, format, label, scheduler }: Telling,
): [string, string][] {
  const t = words.drawing;
  const { grid, imageToImage: begun, imageToVideo: clip, highResolution: second } = settings;
  const number = (value: number | undefined) => (value === undefined ? "" : format.decimal(value));
  const rows: [string, string][] = [
    [t.model, grid?.modelIds.length ? grid.modelIds.map(label).join(", ") : modelName],
    [t.prompt, wordsOf(settings)],
    [t.negative, settings.negativePrompt],
    [t.size, `${settings.width} × ${settings.height}`],
    [t.steps, String(settings.steps ?? "")],
    [t.guidance, number(settings.guidanceScale)],
    [words.file.rescale, settings.guidanceRescale ? number(settings.guidanceRescale) : ""],
    [t.scheduler, scheduler],
    [t.seed, grid?.seeds.length ? grid.seeds.join(", ") : (settings.seed?.toString() ?? "")],
    [t.loraWeight, grid?.loraWeights.length ? grid.loraWeights.map(number).join(", ") : number(settings.loraWeight)],
    [t.loras, settings.loras.map(({ modelId, weight }) => `${label(modelId)} ${number(weight ?? 1)}`).join(", ")],
    [words.begin.strength, number(begun?.strength)],
    [words.begin.maskBlur, begun?.mask ? number(begun.maskBlur) : ""],
    [words.clip.frames, number(clip?.numFrames)],
    [words.clip.fps, number(clip?.framesPerSecond)],
    [words.clip.motion, number(clip?.motionBucketId)],
    [words.clip.noise, number(clip?.noiseAugmentation)],
    [
      words.control.title,
      settings.controls
        .map(({ modelId, weight, start, end }) => `${label(modelId)} ${number(weight)} (${number(start)}–${number(end)})`)
        .join(", "),
    ],
    [words.larger.title, second ? words.larger.told(number(second.scale), number(second.strength), String(second.steps ?? "")) : ""],
    [words.syntax.label, settings.promptSyntax === PromptSyntax.PLAIN ? words.syntax.plain : ""],
    [words.syntax.lists, Object.keys(settings.wildcards).toSorted().map((name) => `__${name}__`).join(", ")],
    [words.file.format, words.file.formats[settings.format] ?? ""],
    [words.file.quality, LOSSY.includes(settings.format) ? number(settings.quality) : ""],
    [words.file.deterministic, settings.deterministic ? t.yes : ""],
    [words.common.created, format.date(createdAt)],
    [t.askedBy, principal],
  ];
  return rows.filter(([, value]) => value !== "");
}
