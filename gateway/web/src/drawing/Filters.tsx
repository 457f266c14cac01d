import { Button, SegmentedControl, Select, TextInput } from "@mantine/core";
import { GenerationStatus } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import classes from "./Drawing.module.css";
import { useChoices } from "./useChoices";

/** Which of the drawings are shown. */
export interface Filter {
  /** 0: of all models. */
  modelId: number;
  status: GenerationStatus;
  words: string;
  kept: "all" | "kept" | "others";
}

export const EVERYTHING: Filter = { modelId: 0, status: GenerationStatus.UNSPECIFIED, words: "", kept: "all" };

export function isEverything(filter: Filter): boolean {
  return filter.modelId === 0 && filter.status === GenerationStatus.UNSPECIFIED && filter.words.trim() === "" && filter.kept === "all";
}

const STATUSES = [
  GenerationStatus.QUEUED,
  GenerationStatus.RUNNING,
  GenerationStatus.COMPLETED,
  GenerationStatus.FAILED,
  GenerationStatus.CANCELLED,
];

interface FiltersProps {
  filter: Filter;
  onChange: (filter: Filter) => void;
  withModel: boolean;
}

export function Filters({ filter, onChange, withModel }: FiltersProps) {
  const { words } = useSpeech();
  const { models, labels } = useChoices();
  const t = words.gallery;
  const set = (changes: Partial<Filter>) => onChange({ ...filter, ...changes });
  return (
    <div className={classes.filters} role="search" aria-label={t.filters}>
      <TextInput
        size="xs"
        w={180}
        aria-label={t.words}
        placeholder={t.words}
        value={filter.words}
        onChange={(event) => set({ words: event.currentTarget.value })}
      />
      {withModel && (
        <Select
          size="xs"
          w={180}
          aria-label={t.model}
          placeholder={t.anyModel}
          clearable
          searchable
          nothingFoundMessage={words.drawing.noMatch}
          clearButtonProps={{ "aria-label": t.anyModel }}
          value={filter.modelId ? String(filter.modelId) : null}
          onChange={(value) => set({ modelId: Number(value ?? 0) })}
          data={models.map(({ id }) => ({ value: String(id), label: labels.get(id) ?? String(id) }))}
        />
      )}
      <Select
        size="xs"
        w={140}
        aria-label={t.status}
        placeholder={t.anyStatus}
        clearable
        clearButtonProps={{ "aria-label": t.anyStatus }}
        value={filter.status ? String(filter.status) : null}
        onChange={(value) => set({ status: Number(value ?? 0) })}
        data={STATUSES.map((status) => ({ value: String(status), label: words.drawing.status[status] ?? "" }))}
      />
      <SegmentedControl
        size="xs"
        aria-label={t.kept}
        value={filter.kept}
        onChange={(value) => set({ kept: value as Filter["kept"] })}
        data={[
          { value: "all", label: t.all },
          { value: "kept", label: t.isKept },
          { value: "others", label: t.isNotKept },
        ]}
      />
      {!isEverything(filter) && (
        <Button size="xs" variant="subtle" onClick={() => onChange(EVERYTHING)}>
          {t.clear}
        </Button>
      )}
    </div>
  );
}
