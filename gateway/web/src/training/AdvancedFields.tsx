import { Checkbox, NumberInput, Select, SimpleGrid, Stack, Textarea, TextInput } from "@mantine/core";
import { LearningRateSchedule, MixedPrecision, TrainingMethod } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import type { Amount, Draft } from "./draft";

interface FieldsProps {
  draft: Draft;
  set: <Name extends keyof Draft>(name: Name, value: Draft[Name]) => void;
  /** The server's message about a field. */
  problem: (name: keyof Draft) => string | undefined;
}

type AmountName = { [Name in keyof Draft]: Draft[Name] extends Amount ? Name : never }[keyof Draft] &
  Exclude<keyof Draft, "datasetId" | "baseModelId" | "method" | "precision" | "schedule">;
type FlagName = { [Name in keyof Draft]: Draft[Name] extends boolean ? Name : never }[keyof Draft];

function useFields({ draft, set, problem }: FieldsProps) {
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

/** What DreamBooth alone asks for. */
export function DreamBoothFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { amount, flag, text } = useFields(props);
  if (props.draft.method !== TrainingMethod.DREAMBOOTH) return null;
  return (
    <Stack gap="sm">
      <TextInput
        label={words.training.instancePrompt}
        description={words.training.instancePromptHint}
        required
        {...text("instancePrompt")}
      />
      <Checkbox label={words.training.priorPreservation} {...flag("priorPreservation")} />
      {props.draft.priorPreservation && (
        <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 2 }}>
          <TextInput label={words.training.classPrompt} description={words.training.classPromptHint} {...text("classPrompt")} />
          <NumberInput label={words.training.classImages} {...amount("classImages")} />
        </SimpleGrid>
      )}
      <Checkbox label={words.training.dreamboothFull} {...flag("dreamboothFull")} />
    </Stack>
  );
}

/** The rest of the configuration, with this deployment's defaults. */
export function AdvancedFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { amount, flag, text } = useFields(props);
  const { draft, set, problem } = props;
  const adapts = draft.method !== TrainingMethod.FULL && !(draft.method === TrainingMethod.DREAMBOOTH && draft.dreamboothFull);
  const t = words.training;
  return (
    <Stack>
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 2 }}>
        <NumberInput label={t.learningRate} {...amount("learningRate")} step={0.0001} />
        <NumberInput label={t.batchSize} description={t.batchSizeHint} {...amount("batchSize")} allowDecimal={false} />
        <NumberInput label={t.epochs} description={t.epochsHint} {...amount("epochs")} allowDecimal={false} />
        <NumberInput label={t.maxSteps} description={t.maxStepsHint} {...amount("maxSteps")} allowDecimal={false} />
        {adapts && <NumberInput label={t.rank} description={t.rankHint} {...amount("rank")} allowDecimal={false} />}
        {adapts && <NumberInput label={t.alpha} description={t.alphaHint} {...amount("alpha")} />}
        <NumberInput label={t.resolution} description={t.resolutionHint} {...amount("resolution")} allowDecimal={false} />
        <NumberInput label={t.seed} description={t.seedHint} {...amount("seed")} allowDecimal={false} />
        <TextInput label={t.triggerWord} description={t.triggerWordHint} {...text("triggerWord")} />
        <Select
          label={t.precision}
          allowDeselect={false}
          value={String(draft.precision)}
          onChange={(value) => set("precision", Number(value))}
          data={[MixedPrecision.UNSPECIFIED, MixedPrecision.NO, MixedPrecision.FP16, MixedPrecision.BF16].map((each) => ({
            value: String(each),
            label: t.precisions[each] ?? "",
          }))}
          error={problem("precision")}
        />
        <Select
          label={t.schedule}
          allowDeselect={false}
          value={String(draft.schedule)}
          onChange={(value) => set("schedule", Number(value))}
          data={[LearningRateSchedule.CONSTANT, LearningRateSchedule.LINEAR, LearningRateSchedule.COSINE].map((each) => ({
            value: String(each),
            label: t.schedules[each] ?? "",
          }))}
          error={problem("schedule")}
        />
        <NumberInput label={t.warmup} {...amount("warmup")} allowDecimal={false} />
        <NumberInput label={t.accumulation} {...amount("accumulation")} allowDecimal={false} />
        <NumberInput label={t.weightDecay} {...amount("weightDecay")} />
        <NumberInput label={t.snrGamma} description={t.snrGammaHint} {...amount("snrGamma")} />
        <NumberInput label={t.captionDropout} {...amount("captionDropout")} />
      </SimpleGrid>
      <Checkbox label={t.flip} {...flag("flip")} />
      <Checkbox label={t.checkpointing} {...flag("checkpointing")} />
      <Checkbox label={t.textEncoder} {...flag("textEncoder")} />
      <Textarea label={t.samplePrompts} autosize minRows={2} {...text("samplePrompts")} />
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 3 }}>
        <NumberInput label={t.sampleEvery} description={t.sampleEveryHint} {...amount("sampleEvery")} allowDecimal={false} />
        <NumberInput label={t.checkpointEvery} description={t.checkpointEveryHint} {...amount("checkpointEvery")} allowDecimal={false} />
        <NumberInput label={t.keep} {...amount("keep")} allowDecimal={false} />
      </SimpleGrid>
    </Stack>
  );
}
