import { Checkbox, NumberInput, Select, SimpleGrid, Stack } from "@mantine/core";
import { Optimizer, PredictionType } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { adaptsOnly, type Draft } from "./draft";
import { choices, type FieldsProps, useFields } from "./fields";

/** The fields of each section, to open the one where the server has found something. */
export const TECHNIQUES: readonly (keyof Draft)[] = [
  "optimizer", "emaDecay", "noiseOffset", "prediction", "zeroSnr", "shuffleTags", "keepTags", "buckets", "masked", "compile",
  "shareDevice", "rslora", "dora", "loraPlus",
];
export const VALIDATION: readonly (keyof Draft)[] = ["heldOut", "measureEvery", "patience", "useBest"];

/** What people reach for once the plain settings are not enough. */
export function TechniqueFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { amount, flag } = useFields(props);
  const { draft, set, problem } = props;
  const adapts = adaptsOnly(draft);
  const t = words.training;
  return (
    <Stack>
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 2 }}>
        <Select
          label={t.optimizer}
          allowDeselect={false}
          value={String(draft.optimizer)}
          onChange={(value) => {
            set("optimizer", Number(value));
            // Prodigy finds the step size itself and multiplies it by the learning rate.
            if (Number(value) === Optimizer.PRODIGY) set("learningRate", 1);
          }}
          data={choices([Optimizer.ADAMW, Optimizer.ADAMW_8BIT, Optimizer.PRODIGY, Optimizer.ADAFACTOR], t.optimizers)}
          error={problem("optimizer")}
        />
        <NumberInput label={t.emaDecay} description={t.emaDecayHint} {...amount("emaDecay")} />
        <NumberInput label={t.noiseOffset} description={t.noiseOffsetHint} {...amount("noiseOffset")} />
        {adapts && <NumberInput label={t.loraPlus} description={t.loraPlusHint} {...amount("loraPlus")} />}
        {!adapts && (
          <Select
            label={t.prediction}
            allowDeselect={false}
            value={String(draft.prediction)}
            onChange={(value) => set("prediction", Number(value))}
            data={choices([PredictionType.UNSPECIFIED, PredictionType.EPSILON, PredictionType.V_PREDICTION], t.predictions)}
            error={problem("prediction")}
          />
        )}
      </SimpleGrid>
      {!adapts && <Checkbox label={t.zeroSnr} {...flag("zeroSnr")} />}
      {adapts && <Checkbox label={t.rslora} {...flag("rslora")} />}
      {adapts && <Checkbox label={t.dora} {...flag("dora")} />}
      <Checkbox label={t.buckets} {...flag("buckets")} />
      <Checkbox label={t.masked} {...flag("masked")} />
      <Checkbox label={t.shuffleTags} {...flag("shuffleTags")} />
      {draft.shuffleTags && <NumberInput label={t.keepTags} {...amount("keepTags")} allowDecimal={false} />}
      <Checkbox label={t.compile} {...flag("compile")} />
      <Checkbox label={t.shareDevice} description={t.shareDeviceHint} {...flag("shareDevice")} />
    </Stack>
  );
}

/** Pictures held out, and what follows from them. */
export function ValidationFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { amount, flag } = useFields(props);
  const t = words.training;
  return (
    <Stack>
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 3 }}>
        <NumberInput label={t.heldOut} description={t.heldOutHint} {...amount("heldOut")} step={0.05} />
        <NumberInput label={t.measureEvery} description={t.measureEveryHint} {...amount("measureEvery")} allowDecimal={false} />
        <NumberInput label={t.patience} description={t.patienceHint} {...amount("patience")} allowDecimal={false} />
      </SimpleGrid>
      <Checkbox label={t.useBest} {...flag("useBest")} />
    </Stack>
  );
}
