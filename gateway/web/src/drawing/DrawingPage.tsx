import { Alert, Button, Paper, Skeleton, Stack, Tabs, Text } from "@mantine/core";
import { IconBrush } from "@tabler/icons-react";
import { type FormEvent, useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { useLocation, useSearch } from "wouter";
import { failureOf, remainder } from "../api/errors";
import { Failed } from "../api/Failed";
import { Empty, Page } from "../app/Page";
import { useFirstError } from "../app/useFirstError";
import { useSpeech } from "../i18n";
import { isLora } from "./choices";
import { Compare } from "./Compare";
import { type Draft, emptyDraft, FIELDS, requestOf } from "./draft";
import { Drawing, type DrawingState, isOver } from "./Drawing";
import classes from "./Drawing.module.css";
import { type FieldsProps, LoraFields, ModelField, PromptFields, SettingFields } from "./Fields";
import { History } from "./History";
import { Running } from "./Running";
import { rememberDraft, rememberDrawing, rememberedDraft, rememberedDrawing } from "./session";
import { type Choices, useChoices } from "./useChoices";

export default function DrawingPage({ tab }: { tab: "draw" | "compare" }) {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const choices = useChoices();
  const none = choices.bases.length + choices.trained.length === 0;
  return (
    <Page title={words.drawing.title}>
      <Tabs value={tab} onChange={(next) => go(next === "compare" ? "/text-to-image/compare" : "/text-to-image")}>
        <Tabs.List>
          <Tabs.Tab value="draw">{words.drawing.tabDraw}</Tabs.Tab>
          <Tabs.Tab value="compare">{words.drawing.tabCompare}</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value={tab} pt="md">
          {choices.error ? (
            <Failed error={choices.error} retry={choices.retry} />
          ) : !choices.ready ? (
            <Skeleton height={320} />
          ) : none ? (
            <Empty title={words.drawing.noModelsTitle} hint={words.drawing.noModelsHint} />
          ) : tab === "draw" ? (
            <Draw choices={choices} />
          ) : (
            <Compare choices={choices} />
          )}
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}

/** The model that the address names, else the one of before, else one whose weights are here. */
function firstModel(choices: Choices, wanted: number, before: number | undefined): number {
  const able = [...choices.trained, ...choices.bases];
  const known = [wanted, before].find((id) => able.some((model) => model.id === id));
  return known ?? (able.find((model) => model.weights.case === "stored") ?? able[0])?.id ?? 0;
}

const IDLE = { subscribe: () => () => undefined, snapshot: (): DrawingState | null => null };

function Draw({ choices }: { choices: Choices }) {
  const { words } = useSpeech();
  const search = useSearch();
  const wanted = Number(new URLSearchParams(search).get("model"));
  const [draft, setDraft] = useState<Draft>(() => {
    const before = rememberedDraft() ?? emptyDraft(choices.able?.defaults);
    const modelId = firstModel(choices, wanted, before.modelId);
    return { ...before, modelId, loras: modelId === before.modelId ? before.loras : [] };
  });
  const [drawing, setDrawing] = useState(rememberedDrawing);
  const state = useSyncExternalStore<DrawingState | null>(
    drawing?.subscribe ?? IDLE.subscribe,
    drawing?.snapshot ?? IDLE.snapshot,
  );
  useEffect(() => rememberDraft(draft), [draft]);
  const error = state?.error ?? null;
  const failure = useMemo(() => (error === null ? null : failureOf(error)), [error]);
  const form = useFirstError(failure);
  const fields: FieldsProps = {
    draft,
    choices,
    set: (changes) => setDraft((before) => ({ ...before, ...changes })),
    problem: (name) => failure?.fields[FIELDS[name]],
  };
  const refused = failure !== null && Object.keys(failure.fields).length > 0;
  const rest = failure && refused ? remainder(failure, Object.values(FIELDS)) : "";
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const next = new Drawing(requestOf(draft, isLora(choices.models.find((model) => model.id === draft.modelId))));
    rememberDrawing(next);
    setDrawing(next);
  };
  const use = (next: Draft) => {
    // A model that is gone or inactive by now stays unchosen; the rest of the settings are there.
    const known = [...choices.trained, ...choices.bases].some((model) => model.id === next.modelId);
    setDraft({ ...next, modelId: known ? next.modelId : 0 });
    form.current?.scrollIntoView({ block: "start", behavior: "smooth" });
  };
  return (
    <Stack gap="xl">
      <div className={classes.columns}>
        <Paper withBorder p="md">
          <form ref={form} onSubmit={submit} noValidate>
            <Stack gap="sm">
              <ModelField {...fields} />
              <PromptFields {...fields} />
              <SettingFields {...fields} withCount />
              <LoraFields {...fields} />
              {rest && (
                <Alert color="red" role="alert">
                  {rest}
                </Alert>
              )}
              <Button type="submit" size="md" disabled={draft.modelId === 0} leftSection={<IconBrush size={18} aria-hidden />}>
                {words.drawing.generate}
              </Button>
            </Stack>
          </form>
        </Paper>
        <Paper withBorder p="md" component="section" aria-label={words.drawing.result} mih={260}>
          {drawing && !refused ? (
            <Running key={drawing.request.requestId} drawing={drawing} onUse={use} />
          ) : (
            <Stack align="center" justify="center" mih={220} gap={4} ta="center">
              <Text fw={600}>{words.drawing.emptyResult}</Text>
              <Text c="dimmed" size="sm">
                {words.drawing.emptyResultHint}
              </Text>
            </Stack>
          )}
        </Paper>
      </div>
      {/* Asked for anew when a drawing begins and when it ends. */}
      <History
        title={words.drawing.history}
        empty={words.drawing.historyEmpty}
        moment={`${state?.generationId}-${state && isOver(state.phase)}`}
        onUse={use}
      />
    </Stack>
  );
}
