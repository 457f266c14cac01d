import { ActionIcon, NumberInput, Select, SimpleGrid, Stack, Text, Textarea } from "@mantine/core";
import { IconArrowsShuffle, IconX } from "@tabler/icons-react";
import { Scheduler } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { fittingLoras, isLora } from "./choices";
import type { Amount, Draft } from "./draft";
import classes from "./Drawing.module.css";
import { type Choices, withModel } from "./useChoices";

export interface FieldsProps {
  draft: Draft;
  /** By a function where what is there may have changed meanwhile, as while a file was read. */
  set: (changes: Partial<Draft> | ((before: Draft) => Partial<Draft>)) => void;
  problem: (name: keyof Draft) => string | undefined;
  choices: Choices;
}

/** What a number field holds. */
export const number = (value: number | string): Amount => (value === "" ? "" : Number(value));

type AmountName = { [Name in keyof Draft]: Amount extends Draft[Name] ? Name : never }[keyof Draft];

/** What each number field of the form takes. */
export function useAmounts({ draft, set, problem }: FieldsProps) {
  return (name: AmountName) => ({
    value: draft[name],
    onChange: (value: number | string) => set({ [name]: number(value) }),
    error: problem(name),
    min: 0,
  });
}

/** Trained and base models, for a dropdown. */
export function useModelGroups({ trained, bases, labels }: Choices) {
  const { words } = useSpeech();
  const option = ({ id }: { id: number }) => ({ value: String(id), label: labels.get(id) ?? "" });
  return [
    { group: words.drawing.trained, items: trained.map(option) },
    { group: words.drawing.base, items: bases.map(option) },
  ].filter(({ items }) => items.length > 0);
}

/** Base and trained models in one dropdown, found by name. */
export function ModelField({ draft, set, problem, choices }: FieldsProps) {
  const { words } = useSpeech();
  const groups = useModelGroups(choices);
  return (
    <Select
      label={words.drawing.model}
      placeholder={words.drawing.findModel}
      searchable
      allowDeselect={false}
      nothingFoundMessage={words.drawing.noMatch}
      maxDropdownHeight={320}
      value={draft.modelId ? String(draft.modelId) : null}
      onChange={(value) => set(withModel(draft, Number(value), choices))}
      data={groups}
      error={problem("modelId")}
    />
  );
}

export function PromptFields(props: FieldsProps) {
  const { draft, set, problem } = props;
  const { words } = useSpeech();
  return (
    <>
      <Textarea
        label={words.drawing.prompt}
        description={words.drawing.promptHint}
        autosize
        minRows={3}
        maxRows={10}
        value={draft.prompt}
        error={problem("prompt")}
        onChange={(event) => set({ prompt: event.currentTarget.value })}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form?.requestSubmit();
        }}
      />
      <NegativeField {...props} />
    </>
  );
}

export function NegativeField({ draft, set, problem }: FieldsProps) {
  const { words } = useSpeech();
  return (
    <Textarea
      label={words.drawing.negative}
      placeholder={words.drawing.negativeHint}
      autosize
      minRows={1}
      maxRows={5}
      value={draft.negative}
      error={problem("negative")}
      onChange={(event) => set({ negative: event.currentTarget.value })}
    />
  );
}

/** Size, steps, guidance, scheduler and seed: what any drawing has. */
export function SettingFields({ withCount, withSeed = true, ...props }: FieldsProps & { withCount: boolean; withSeed?: boolean }) {
  const { words } = useSpeech();
  const { draft, set, problem, choices } = props;
  const model = choices.model(draft.modelId);
  const own = model?.nativeResolution ? String(model.nativeResolution) : words.drawing.own;
  const amount = useAmounts(props);
  return (
    <SimpleGrid cols={2} spacing="sm">
      <NumberInput label={words.drawing.width} placeholder={own} step={8} allowDecimal={false} {...amount("width")} />
      <NumberInput label={words.drawing.height} placeholder={own} step={8} allowDecimal={false} {...amount("height")} />
      <NumberInput label={words.drawing.steps} allowDecimal={false} {...amount("steps")} max={choices.able?.maxSteps} />
      <NumberInput label={words.drawing.guidance} placeholder={words.drawing.own} step={0.5} {...amount("guidance")} />
      <Select
        label={words.drawing.scheduler}
        allowDeselect={false}
        value={String(draft.scheduler)}
        onChange={(value) => set({ scheduler: Number(value) })}
        data={[
          { value: String(Scheduler.UNSPECIFIED), label: words.drawing.schedulerOwn },
          ...choices.schedulers.map((each) => ({ value: String(each.scheduler), label: each.displayName })),
        ]}
        error={problem("scheduler")}
      />
      {withSeed && (
        <NumberInput
          label={words.drawing.seed}
          placeholder={words.drawing.seedHint}
          allowDecimal={false}
          hideControls
          {...amount("seed")}
          rightSection={
            draft.seed === "" ? null : (
              <ActionIcon
                variant="subtle"
                color="gray"
                onClick={() => set({ seed: "" })}
                aria-label={words.drawing.randomSeed}
                title={words.drawing.randomSeed}
              >
                <IconArrowsShuffle size={16} aria-hidden />
              </ActionIcon>
            )
          }
        />
      )}
      {withCount && (
        <NumberInput label={words.drawing.count} allowDecimal={false} {...amount("count")} max={choices.able?.maxCount} />
      )}
      {withCount && isLora(model) && (
        <NumberInput
          label={words.drawing.loraWeight}
          step={0.1}
          decimalScale={2}
          {...amount("loraWeight")}
          min={-4}
          max={4}
        />
      )}
    </SimpleGrid>
  );
}

/** More LoRAs of the same base, each with its weight; nothing where there is none. */
export function LoraFields({ draft, set, problem, choices }: FieldsProps) {
  const { words } = useSpeech();
  const model = choices.model(draft.modelId);
  const fitting = fittingLoras(model, choices.models);
  const free = fitting.filter((each) => !draft.loras.some(({ modelId }) => modelId === each.id));
  if (fitting.length === 0) return null;
  return (
    <Stack gap="xs">
      {draft.loras.map(({ modelId, weight }) => {
        const name = choices.labels.get(modelId) ?? String(modelId);
        const others = draft.loras.filter((each) => each.modelId !== modelId);
        return (
          <div key={modelId} className={classes.lora}>
            <Text size="sm" truncate>
              {name}
            </Text>
            <NumberInput
              size="xs"
              w={80}
              step={0.1}
              min={-4}
              max={4}
              decimalScale={2}
              aria-label={words.drawing.weightOf(name)}
              value={weight}
              onChange={(value) =>
                set({ loras: draft.loras.map((each) => (each.modelId === modelId ? { modelId, weight: number(value) } : each)) })
              }
            />
            <ActionIcon
              variant="subtle"
              color="gray"
              onClick={() => set({ loras: others })}
              aria-label={words.drawing.removeLora(name)}
            >
              <IconX size={16} aria-hidden />
            </ActionIcon>
          </div>
        );
      })}
      {free.length > 0 && draft.loras.length < 8 && (
        <Select
          key={draft.loras.length}
          label={words.drawing.loras}
          placeholder={words.drawing.addLora}
          searchable
          value={null}
          onChange={(value) => value && set({ loras: [...draft.loras, { modelId: Number(value), weight: 1 }] })}
          data={free.map((each) => ({ value: String(each.id), label: choices.labels.get(each.id) ?? each.name }))}
          error={problem("loras")}
        />
      )}
    </Stack>
  );
}
