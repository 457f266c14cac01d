import { Alert, Button, Paper, Skeleton, Stack, Tabs } from "@mantine/core";
import { IconBrush } from "@tabler/icons-react";
import type { FormEvent } from "react";
import { useLocation, useSearch } from "wouter";
import { Failed } from "../api/Failed";
import { Empty, Page } from "../app/Page";
import { useSpeech } from "../i18n";
import { ClipFields } from "./BeginFields";
import { Compare } from "./Compare";
import { type Draft, emptyDraft, pageOf } from "./draft";
import { isOver } from "./Drawing";
import classes from "./Drawing.module.css";
import { LoraFields, ModelField, PromptFields, SettingFields } from "./Fields";
import { Grid } from "./Grid";
import { History } from "./History";
import { MoreFields } from "./MoreFields";
import { requestOf } from "./request";
import { Result } from "./Result";
import { Running } from "./Running";
import { rememberDraft, rememberedDraft } from "./session";
import { type Choices, firstModel, useChoices, withModel } from "./useChoices";
import { useForm } from "./useForm";

type Tab = "draw" | "grid" | "compare";
const PATHS: Record<Tab, string> = { draw: "/text-to-image", grid: "/text-to-image/grid", compare: "/text-to-image/compare" };

export default function DrawingPage({ tab }: { tab: Tab }) {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const choices = useChoices();
  const none = choices.bases.length + choices.trained.length === 0;
  return (
    <Page title={words.drawing.title}>
      <Tabs value={tab} onChange={(next) => go(PATHS[next as Tab])}>
        <Tabs.List>
          <Tabs.Tab value="draw">{words.drawing.tabDraw}</Tabs.Tab>
          <Tabs.Tab value="compare">{words.drawing.tabCompare}</Tabs.Tab>
          <Tabs.Tab value="grid">{words.drawing.tabGrid}</Tabs.Tab>
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
          ) : tab === "grid" ? (
            <Grid choices={choices} />
          ) : (
            <Compare choices={choices} />
          )}
        </Tabs.Panel>
      </Tabs>
    </Page>
  );
}

function Draw({ choices }: { choices: Choices }) {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const search = useSearch();
  const wanted = Number(new URLSearchParams(search).get("model"));
  const { draft, setDraft, drawing, state, form, fields, refused, rest, start } = useForm(choices, "draw", () => {
    const before = rememberedDraft() ?? emptyDraft(choices.able?.defaults);
    const modelId = firstModel(choices, wanted, before.modelId);
    return modelId === before.modelId ? before : { ...before, ...withModel(before, modelId, choices) };
  });
  const kind = choices.kind(draft.modelId);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    start(requestOf(draft, kind));
  };
  const use = (next: Draft) => {
    // A model that is gone or inactive by now stays unchosen; the rest of the settings are there.
    const known = [...choices.trained, ...choices.bases].some((model) => model.id === next.modelId);
    const told = { ...next, modelId: known ? next.modelId : 0 };
    if (pageOf(next) !== PATHS.draw) {
      rememberDraft(told);
      setDraft(told);
      go(pageOf(next));
      return;
    }
    setDraft((before) => ({ ...told, grid: before.grid }));
    form.current?.scrollIntoView({ block: "start", behavior: "smooth" });
  };
  return (
    <Stack gap="xl">
      <div className={classes.columns}>
        <Paper withBorder p="md">
          <form ref={form} onSubmit={submit} noValidate>
            <Stack gap="sm">
              <ModelField {...fields} />
              {kind.clips ? <ClipFields {...fields} /> : <PromptFields {...fields} />}
              <SettingFields {...fields} withCount />
              <LoraFields {...fields} />
              <MoreFields {...fields} modelId={draft.modelId} />
              {rest && (
                <Alert color="red" role="alert">
                  {rest}
                </Alert>
              )}
              <div className={classes.send}>
                <Button
                  type="submit"
                  size="md"
                  fullWidth
                  disabled={draft.modelId === 0 || (kind.clips && draft.begin === null)}
                  leftSection={<IconBrush size={18} aria-hidden />}
                >
                  {words.drawing.generate}
                </Button>
              </div>
            </Stack>
          </form>
        </Paper>
        <Result empty={words.drawing.emptyResult} hint={words.drawing.emptyResultHint}>
          {drawing && !refused && <Running key={drawing.request.requestId} drawing={drawing} onUse={use} />}
        </Result>
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
