import { Anchor, Button, MultiSelect, Paper, Stack, Text, Title } from "@mantine/core";
import { type FormEvent, useEffect, useState } from "react";
import { Link } from "wouter";
import { useSpeech } from "../i18n";
import { type Draft, emptyDraft } from "./draft";
import { Drawing } from "./Drawing";
import classes from "./Drawing.module.css";
import { type FieldsProps, PromptFields, SettingFields, useModelGroups } from "./Fields";
import { MoreFields } from "./MoreFields";
import { anySeed, requestOf } from "./request";
import { Result } from "./Result";
import { Running } from "./Running";
import { rememberCompared, rememberDraft, rememberedCompared, rememberedDraft } from "./session";
import type { Choices } from "./useChoices";

/** The same prompt and seed across several models, side by side. */
export function Compare({ choices }: { choices: Choices }) {
  const { words } = useSpeech();
  const able = [...choices.trained, ...choices.bases];
  const [draft, setDraft] = useState<Draft>(() => rememberedDraft() ?? emptyDraft(choices.able?.defaults));
  const [drawings, setDrawings] = useState(rememberedCompared);
  const [chosen, setChosen] = useState<readonly string[]>(() =>
    drawings.map(({ request }) => String(request.settings?.modelId)),
  );
  useEffect(() => rememberDraft(draft), [draft]);
  const fields: FieldsProps = {
    draft: { ...draft, modelId: 0 },
    choices,
    set: (changes) => setDraft((before) => ({ ...before, ...(typeof changes === "function" ? changes(before) : changes) })),
    problem: () => undefined, // each model answers for itself, under its name
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const seed = draft.seed === "" ? anySeed() : draft.seed;
    const next = chosen.map(
      (id) => new Drawing(requestOf({ ...draft, seed, modelId: Number(id), count: 1, loras: [] }, choices.kind(Number(id)))),
    );
    rememberCompared(next);
    setDrawings(next);
  };
  const groups = useModelGroups(choices);
  const seed = drawings[0]?.request.settings?.seed;
  return (
    <div className={classes.columns}>
      <Paper withBorder p="md">
        <form onSubmit={submit} noValidate>
          <Stack gap="sm">
            <Text size="sm" c="dimmed">
              {words.compare.intro}
            </Text>
            <MultiSelect
              label={words.compare.models}
              placeholder={chosen.length < 2 ? words.compare.modelsHint : undefined}
              searchable
              nothingFoundMessage={words.drawing.noMatch}
              value={[...chosen]}
              onChange={setChosen}
              data={groups}
              clearButtonProps={{ "aria-label": words.images.selectNone }}
            />
            <PromptFields {...fields} />
            <SettingFields {...fields} withCount={false} />
            <MoreFields {...fields} modelId={Number(chosen[0] ?? 0)} />
            <div className={classes.send}>
              <Button type="submit" size="md" fullWidth disabled={chosen.length < 2}>
                {words.compare.run}
              </Button>
            </div>
          </Stack>
        </form>
      </Paper>
      <Result empty={words.drawing.emptyResult}>
        {drawings.length > 0 && (
          <Stack>
            {seed !== undefined && <Text c="dimmed">{words.compare.seedUsed(seed.toString())}</Text>}
            <ul className={classes.compared}>
              {drawings.map((drawing) => {
                const id = drawing.request.settings?.modelId ?? 0;
                const known = able.find((model) => model.id === id);
                return (
                  <li key={drawing.request.requestId}>
                    <Title order={2} size="h5" mb="xs">
                      <Anchor component={Link} href={`/models/${id}`} inherit>
                        {choices.labels.get(known?.id ?? 0) ?? id}
                      </Anchor>
                    </Title>
                    <Running drawing={drawing} brief />
                  </li>
                );
              })}
            </ul>
          </Stack>
        )}
      </Result>
    </div>
  );
}
