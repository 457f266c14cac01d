import type { Amount, Draft } from "./draft";

export interface FieldsProps {
  draft: Draft;
  set: <Name extends keyof Draft>(name: Name, value: Draft[Name]) => void;
  /** The server's message about a field. */
  problem: (name: keyof Draft) => string | undefined;
}

type Chosen = "datasetId" | "classDatasetId" | "baseModelId" | "method" | "precision" | "schedule" | "optimizer" | "prediction";
type AmountName = Exclude<{ [Name in keyof Draft]: Draft[Name] extends Amount ? Name : never }[keyof Draft], Chosen>;
type FlagName = { [Name in keyof Draft]: Draft[Name] extends boolean ? Name : never }[keyof Draft];

/** What an input needs to show a field of the draft and to change it. */
export function useFields({ draft, set, problem }: FieldsProps) {
  return {
    amount: (name: AmountName) => ({
      value: draft[name],
      onChange: (value: number | string) => set(name, value === "" ? "" : Number(value)),
      error: problem(name),
      hideControls: true,
      allowNegative: false,
    }),
    flag: (name: FlagName) => ({
      checked: draft[name],
      onChange: (event: { currentTarget: HTMLInputElement }) => set(name, event.currentTarget.checked),
      error: problem(name),
    }),
    text: (name: "triggerWord" | "instancePrompt" | "classPrompt" | "samplePrompts") => ({
      value: draft[name],
      onChange: (event: { currentTarget: HTMLInputElement | HTMLTextAreaElement }) => set(name, event.currentTarget.value),
      error: problem(name),
    }),
  };
}

/** An enum's values with their words, as a Select takes them. */
export function choices(values: readonly number[], words: Record<number, string>): { value: string; label: string }[] {
  return values.map((each) => ({ value: String(each), label: words[each] ?? "" }));
}
