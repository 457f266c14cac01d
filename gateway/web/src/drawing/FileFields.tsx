import { Checkbox, NumberInput, Select, SimpleGrid, Stack } from "@mantine/core";
import { PictureFormat } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { type FieldsProps, useAmounts } from "./Fields";
import { CLIP_FORMATS, formatOf } from "./request";

/** The file that comes of it, and what few people change. */
export function FileFields({ clips, ...props }: FieldsProps & { clips: boolean }) {
  const { words } = useSpeech();
  const { draft, set, problem, choices } = props;
  const amount = useAmounts(props);
  const t = words.file;
  const format = formatOf(draft.format, clips);
  const known = (choices.able?.formats ?? []).filter((each) => CLIP_FORMATS.includes(each) === clips);
  const hasQuality = format !== PictureFormat.PNG && format !== PictureFormat.MP4;
  return (
    <Stack gap="sm">
      <SimpleGrid cols={2} spacing="sm" style={{ alignItems: "end" }}>
        <Select
          label={t.format}
          allowDeselect={false}
          value={String(format)}
          onChange={(value) => set({ format: Number(value) })}
          data={known.map((each) => ({ value: String(each), label: t.formats[each] ?? String(each) }))}
          error={problem("format")}
        />
        {hasQuality && (
          <NumberInput label={t.quality} description={t.qualityHint} allowDecimal={false} max={100} {...amount("quality")} />
        )}
        <NumberInput label={t.rescale} description={t.rescaleHint} step={0.1} max={1} decimalScale={2} {...amount("rescale")} />
      </SimpleGrid>
      <Checkbox
        label={t.deterministic}
        description={t.deterministicHint}
        checked={draft.deterministic}
        onChange={(event) => set({ deterministic: event.currentTarget.checked })}
        error={problem("deterministic")}
      />
    </Stack>
  );
}
