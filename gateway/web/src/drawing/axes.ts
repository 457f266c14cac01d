import type { GridDraft } from "./draft";

/** What a grid's form has written, as its axes: lines, numbers between commas or spaces. */
export interface Axes {
  prompts: string[];
  modelIds: number[];
  weights: number[];
  seeds: bigint[];
  /** Words that should be numbers and are none. */
  wrong: { weights: string[]; seeds: string[] };
}

const words = (text: string) => text.split(/[\s,;]+/).filter((word) => word !== "");
const unique = <Item>(items: readonly Item[]) => [...new Set(items)];

const isWeight = (word: string) => /^-?(\d+\.?\d*|\.\d+)$/.test(word);
const isSeed = (word: string) => /^\d{1,16}$/.test(word);

export function axesOf(grid: GridDraft): Axes {
  const weights = words(grid.weights);
  const seeds = words(grid.seeds);
  return {
    prompts: unique(grid.prompts.split("\n").map((line) => line.trim()).filter((line) => line !== "")),
    modelIds: unique(grid.modelIds),
    weights: unique(weights.filter(isWeight).map(Number)),
    seeds: unique(seeds.filter(isSeed).map(BigInt)),
    wrong: { weights: weights.filter((word) => !isWeight(word)), seeds: seeds.filter((word) => !isSeed(word)) },
  };
}

/** Pictures of a grid, without its sheet: an empty axis has the settings' own value. */
export function cells({ prompts, modelIds, weights, seeds }: Pick<Axes, "prompts" | "modelIds" | "weights" | "seeds">): number {
  return [prompts, modelIds, weights, seeds].reduce((product, { length }) => product * Math.max(1, length), 1);
}
