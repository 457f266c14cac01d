import { ActionIcon, Group, NumberInput, Select, SimpleGrid, Stack, Switch, Text } from "@mantine/core";
import { IconX } from "@tabler/icons-react";
import type { Model } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";
import type { Amount, ControlDraft } from "./draft";
import { type FieldsProps, number, useAmounts } from "./Fields";
import { PictureField } from "./PictureField";

/** The contract's limit. */
const MOST = 4;

/** ControlNets, each with the picture that it is shown, how strongly and for which share of the steps. */
export function ControlFields({ draft, set, problem, choices, models }: FieldsProps & { models: readonly Model[] }) {
  const { words } = useSpeech();
  const t = words.control;
  const change = (place: number, changes: Partial<ControlDraft>) =>
    set(({ controls }) => ({ controls: controls.map((each, index) => (index === place ? { ...each, ...changes } : each)) }));
  return (
    <Stack gap="md">
      <Text size="sm" c="dimmed">
        {t.hint}
      </Text>
      {draft.controls.map((control, place) => {
        const name = choices.labels.get(control.modelId) ?? String(control.modelId);
        const amount = (field: "weight" | "start" | "end") => ({
          value: control[field],
          onChange: (value: number | string) => change(place, { [field]: number(value) } as Record<typeof field, Amount>),
          step: 0.1,
          decimalScale: 2,
          min: 0,
        });
        return (
          // a ControlNet may be there twice, with two pictures: its place is its identity
          <Stack key={place} gap="xs" role="group" aria-label={name}>
            <Group justify="space-between" wrap="nowrap">
              <Text size="sm" fw={500} truncate>
                {name}
              </Text>
              <ActionIcon
                variant="subtle"
                color="gray"
                aria-label={words.drawing.removeLora(name)}
                onClick={() => set({ controls: draft.controls.filter((_, index) => index !== place) })}
              >
                <IconX size={16} aria-hidden />
              </ActionIcon>
            </Group>
            <PictureField label={t.picture} value={control.image} onChange={(image) => change(place, { image })} />
            <SimpleGrid cols={3} spacing="xs">
              <NumberInput size="xs" label={t.weight} max={2} {...amount("weight")} />
              <NumberInput size="xs" label={t.start} max={1} {...amount("start")} />
              <NumberInput size="xs" label={t.end} max={1} {...amount("end")} />
            </SimpleGrid>
          </Stack>
        );
      })}
      {draft.controls.length < MOST && (
        <Select
          key={draft.controls.length}
          label={t.add}
          placeholder={t.choose}
          searchable
          value={null}
          onChange={(value) =>
            value && set({ controls: [...draft.controls, { modelId: Number(value), image: null, weight: 1, start: 0, end: 1 }] })
          }
          data={models.map((each) => ({ value: String(each.id), label: choices.labels.get(each.id) ?? each.name }))}
        />
      )}
      {problem("controls") && (
        <Text size="sm" c="red" role="alert">
          {problem("controls")}
        </Text>
      )}
    </Stack>
  );
}

/** A second pass over the enlarged picture. */
export function LargerFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { draft, set, problem } = props;
  const amount = useAmounts(props);
  const t = words.larger;
  return (
    <Stack gap="sm">
      <Switch
        label={t.on}
        description={t.hint}
        checked={draft.enlarges}
        onChange={(event) => set({ enlarges: event.currentTarget.checked })}
        error={problem("enlarges")}
      />
      {draft.enlarges && (
        <SimpleGrid cols={3} spacing="xs" style={{ alignItems: "end" }}>
          <NumberInput label={t.scale} step={0.5} max={4} decimalScale={2} {...amount("scale")} />
          <NumberInput label={words.begin.strength} step={0.05} max={1} decimalScale={3} {...amount("scaleStrength")} />
          <NumberInput label={words.drawing.steps} placeholder={t.asMany} allowDecimal={false} {...amount("scaleSteps")} />
        </SimpleGrid>
      )}
    </Stack>
  );
}
