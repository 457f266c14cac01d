import { Checkbox, NumberInput, Select, SimpleGrid, Stack, Textarea, TextInput } from "@mantine/core";
import type { Dataset } from "../gen/atelier/catalog/v1/dataset_pb";
import { LearningRateSchedule, MixedPrecision, TrainingMethod } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { adaptsOnly } from "./draft";
import { choices, type FieldsProps, useFields } from "./fields";

/** What DreamBooth alone asks for. */
export function DreamBoothFields({ datasets, ...props }: FieldsProps & { datasets: readonly Dataset[] }) {
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
          <Select
            label={words.training.classDataset}
            clearable
            searchable
            placeholder={words.training.classDrawn}
            value={props.draft.classDatasetId === "" ? null : String(props.draft.classDatasetId)}
            onChange={(value) => props.set("classDatasetId", value === null ? "" : Number(value))}
            data={datasets.map((each) => ({ value: String(each.id), label: each.name }))}
            error={props.problem("classDatasetId")}
          />
          {props.draft.classDatasetId === "" && <NumberInput label={words.training.classImages} {...amount("classImages")} />}
        </SimpleGrid>
      )}
      <Checkbox label={words.training.dreamboothFull} {...flag("dreamboothFull")} />
    </Stack>
  );
}

/** The rest of the configuration, with this deployment's defaults. */
export function AdvancedFields({ video, ...props }: FieldsProps & { video: boolean }) {
  const { words } = useSpeech();
  const { amount, flag, text } = useFields(props);
  const { draft, set, problem } = props;
  const adapts = adaptsOnly(draft);
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
          data={choices([MixedPrecision.UNSPECIFIED, MixedPrecision.NO, MixedPrecision.FP16, MixedPrecision.BF16], t.precisions)}
          error={problem("precision")}
        />
        <Select
          label={t.schedule}
          allowDeselect={false}
          value={String(draft.schedule)}
          onChange={(value) => set("schedule", Number(value))}
          data={choices([LearningRateSchedule.CONSTANT, LearningRateSchedule.LINEAR, LearningRateSchedule.COSINE], t.schedules)}
          error={problem("schedule")}
        />
        <NumberInput label={t.warmup} {...amount("warmup")} allowDecimal={false} />
        <NumberInput label={t.accumulation} {...amount("accumulation")} allowDecimal={false} />
        <NumberInput label={t.weightDecay} {...amount("weightDecay")} />
        <NumberInput
          label={t.maxGradNorm}
          description={adapts ? t.maxGradNormHint : t.maxGradNormHintFull}
          {...amount("maxGradNorm")}
        />
        <NumberInput label={t.snrGamma} description={t.snrGammaHint} {...amount("snrGamma")} />
        <NumberInput label={t.captionDropout} {...amount("captionDropout")} />
      </SimpleGrid>
      <Checkbox label={t.flip} {...flag("flip")} />
      <Checkbox label={t.checkpointing} {...flag("checkpointing")} />
      <Checkbox label={t.textEncoder} {...flag("textEncoder")} />
      {!video && <Textarea label={t.samplePrompts} autosize minRows={2} {...text("samplePrompts")} />}
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 3 }}>
        <NumberInput label={t.sampleEvery} description={t.sampleEveryHint} {...amount("sampleEvery")} allowDecimal={false} />
        <NumberInput label={t.checkpointEvery} description={t.checkpointEveryHint} {...amount("checkpointEvery")} allowDecimal={false} />
        <NumberInput label={t.keep} {...amount("keep")} allowDecimal={false} />
      </SimpleGrid>
    </Stack>
  );
}
