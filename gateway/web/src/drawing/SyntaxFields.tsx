import { ActionIcon, Button, Group, Input, SegmentedControl, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { IconPlus, IconX } from "@tabler/icons-react";
import { PromptSyntax } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import classes from "./Drawing.module.css";
import type { FieldsProps } from "./Fields";
import { axesOf } from "./axes";
import { linesOf, missing, type Wildcard } from "./wildcards";

/** How prompts are read, what their signs mean, and the lists that they take words from. */
export function SyntaxFields({ draft, set, problem }: FieldsProps) {
  const { words } = useSpeech();
  const t = words.syntax;
  const plain = draft.syntax === PromptSyntax.PLAIN;
  const change = (place: number, changes: Partial<Wildcard>) =>
    set(({ wildcards }) => ({ wildcards: wildcards.map((each, index) => (index === place ? { ...each, ...changes } : each)) }));
  const add = (name: string) => set({ wildcards: [...draft.wildcards, { name, lines: "" }] });
  const wanted = plain ? [] : missing([draft.prompt, draft.negative, ...axesOf(draft.grid).prompts], draft.wildcards);
  const unnamed = wanted.filter((name) => !draft.wildcards.some((each) => each.name === name));
  return (
    <Stack gap="sm">
      <Input.Wrapper label={t.label} labelElement="div" error={problem("syntax")}>
        <SegmentedControl
          fullWidth
          aria-label={t.label}
          value={plain ? "plain" : "weighted"}
          onChange={(value) => set({ syntax: value === "plain" ? PromptSyntax.PLAIN : PromptSyntax.WEIGHTED })}
          data={[
            { value: "weighted", label: t.weighted },
            { value: "plain", label: t.plain },
          ]}
        />
      </Input.Wrapper>
      {plain ? (
        <Text size="sm" c="dimmed">
          {t.plainHint}
        </Text>
      ) : (
        <>
          <dl className={classes.signs}>
            {t.signs.map(([sign, meaning]) => [
              <dt key={sign}>
                <code>{sign}</code>
              </dt>,
              <dd key={`${sign}-meaning`}>{meaning}</dd>,
            ])}
          </dl>
          {draft.wildcards.map((wildcard, place) => (
            // a list may have any name, or none yet: its place is its identity
            <Stack key={place} gap={4} role="group" aria-label={t.list(wildcard.name)}>
              <Group wrap="nowrap" align="end" gap="xs">
                <TextInput
                  flex={1}
                  size="xs"
                  label={t.name}
                  leftSection="__"
                  rightSection="__"
                  value={wildcard.name}
                  onChange={(event) => change(place, { name: event.currentTarget.value.trim() })}
                />
                <ActionIcon
                  variant="subtle"
                  color="gray"
                  aria-label={t.removeList(wildcard.name)}
                  onClick={() => set({ wildcards: draft.wildcards.filter((_, index) => index !== place) })}
                >
                  <IconX size={16} aria-hidden />
                </ActionIcon>
              </Group>
              <Textarea
                size="xs"
                label={t.lines}
                description={t.linesCount(linesOf(wildcard.lines).length)}
                autosize
                minRows={2}
                maxRows={10}
                value={wildcard.lines}
                onChange={(event) => change(place, { lines: event.currentTarget.value })}
              />
            </Stack>
          ))}
          {unnamed.map((name) => (
            <Text key={name} size="sm">
              {t.missing(`__${name}__`)}{" "}
              <Button size="compact-xs" variant="light" onClick={() => add(name)}>
                {t.write(name)}
              </Button>
            </Text>
          ))}
          <Button size="xs" variant="default" w="fit-content" leftSection={<IconPlus size={14} aria-hidden />} onClick={() => add("")}>
            {t.addList}
          </Button>
        </>
      )}
      {problem("wildcards") && (
        <Text size="sm" c="red" role="alert">
          {problem("wildcards")}
        </Text>
      )}
    </Stack>
  );
}
