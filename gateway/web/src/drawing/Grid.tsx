import { Alert, Button, MultiSelect, Paper, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { IconGridDots } from "@tabler/icons-react";
import type { FormEvent } from "react";
import { useLocation } from "wouter";
import { useSpeech } from "../i18n";
import { type Draft, emptyDraft, type GridDraft, pageOf } from "./draft";
import { isOver } from "./Drawing";
import classes from "./Drawing.module.css";
import { NegativeField, SettingFields, useModelGroups } from "./Fields";
import { axesOf, cells } from "./axes";
import { History } from "./History";
import { MoreFields } from "./MoreFields";
import { anySeed, gridRequestOf } from "./request";
import { Result } from "./Result";
import { Running } from "./Running";
import { rememberDraft, rememberedDraft } from "./session";
import { type Choices, firstModel } from "./useChoices";
import { useForm } from "./useForm";

/** Every combination of prompts, models, LoRA weights and seeds on one sheet. */
export function Grid({ choices }: { choices: Choices }) {
  const { words } = useSpeech();
  const t = words.grid;
  const [, go] = useLocation();
  const { draft, setDraft, drawing, state, form, fields, refused, rest, start } = useForm(choices, "grid", () => {
    const before = rememberedDraft() ?? emptyDraft(choices.able?.defaults);
    if (pageOf(before) !== "/text-to-image") return before;
    const modelIds = [firstModel(choices, 0, before.modelId)];
    return { ...before, grid: { ...before.grid, prompts: before.prompt, modelIds } }; // it begins where the other page is
  });
  const { grid } = draft;
  const set = (changes: Partial<GridDraft>) => fields.set({ grid: { ...grid, ...changes } });
  const axes = axesOf(grid);
  const count = cells(axes);
  const most = choices.able?.maxGrid ?? 256;
  const model = grid.modelIds[0] ?? 0;
  const wrong = axes.wrong.weights.length + axes.wrong.seeds.length > 0;
  const lora = grid.modelIds.some((id) => choices.kind(id).lora);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    // Unset, one seed is chosen here, so that it can be read while the pictures come.
    start(gridRequestOf({ ...draft, seed: axes.seeds.length === 0 ? anySeed() : "" }, choices.kind(model)));
  };
  const use = (next: Draft) => {
    if (pageOf(next) === "/text-to-image/grid") {
      setDraft(next);
      form.current?.scrollIntoView({ block: "start", behavior: "smooth" });
      return;
    }
    rememberDraft(next);
    setDraft(next);
    go("/text-to-image");
  };
  const groups = useModelGroups(choices);
  return (
    <Stack gap="xl">
      <div className={classes.columns}>
        <Paper withBorder p="md">
          <form ref={form} onSubmit={submit} noValidate>
            <Stack gap="sm">
              <Text size="sm" c="dimmed">
                {t.intro}
              </Text>
              <Textarea
                label={t.prompts}
                description={t.promptsHint}
                autosize
                minRows={3}
                maxRows={12}
                value={grid.prompts}
                onChange={(event) => set({ prompts: event.currentTarget.value })}
              />
              <MultiSelect
                label={t.models}
                placeholder={grid.modelIds.length === 0 ? words.drawing.findModel : undefined}
                searchable
                nothingFoundMessage={words.drawing.noMatch}
                value={grid.modelIds.map(String)}
                onChange={(ids) => set({ modelIds: ids.map(Number) })}
                data={groups}
                clearButtonProps={{ "aria-label": words.images.selectNone }}
                error={fields.problem("modelId")}
              />
              {(lora || grid.weights !== "") && (
                <TextInput
                  label={t.weights}
                  description={t.weightsHint}
                  value={grid.weights}
                  onChange={(event) => set({ weights: event.currentTarget.value })}
                  error={axes.wrong.weights.length > 0 && t.noNumber(axes.wrong.weights.join(", "))}
                />
              )}
              <TextInput
                label={t.seeds}
                description={t.seedsHint}
                value={grid.seeds}
                onChange={(event) => set({ seeds: event.currentTarget.value })}
                error={axes.wrong.seeds.length > 0 && t.noNumber(axes.wrong.seeds.join(", "))}
              />
              <NegativeField {...fields} />
              <SettingFields {...fields} withCount={false} withSeed={false} />
              <MoreFields {...fields} modelId={model} />
              {(rest || fields.problem("grid")) && (
                <Alert color="red" role="alert">
                  {[fields.problem("grid"), rest].filter(Boolean).join("; ")}
                </Alert>
              )}
              <div className={classes.send}>
                <Text size="sm" role="status" ta="center" mb={6} c={count > most ? "red" : "dimmed"}>
                  {count > most ? t.tooMany(count, most) : t.count(axes, count)}
                </Text>
                <Button
                  type="submit"
                  size="md"
                  fullWidth
                  disabled={model === 0 || wrong || count > most}
                  leftSection={<IconGridDots size={18} aria-hidden />}
                >
                  {t.run(count)}
                </Button>
              </div>
            </Stack>
          </form>
        </Paper>
        <Result empty={t.empty} hint={t.emptyHint}>
          {drawing && !refused && <Running key={drawing.request.requestId} drawing={drawing} onUse={use} />}
        </Result>
      </div>
      <History
        title={words.drawing.history}
        empty={words.drawing.historyEmpty}
        moment={`${state?.generationId}-${state && isOver(state.phase)}`}
        onUse={use}
      />
    </Stack>
  );
}
