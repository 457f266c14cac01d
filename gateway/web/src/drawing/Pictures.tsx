import { ActionIcon, Badge, Button, Group, Stack, Text, Title } from "@mantine/core";
import { IconDice5, IconDownload, IconPhotoEdit } from "@tabler/icons-react";
import { pictureUrl } from "../api/urls";
import type { GeneratedImage, Generation } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { type Draft, NO_GRID } from "./draft";
import classes from "./Drawing.module.css";
import { draftOf } from "./request";
import { rowsOf } from "./told";
import { useChoices } from "./useChoices";

const ENDINGS: Record<string, string> = { "image/webp": "webp", "image/jpeg": "jpg", "video/mp4": "mp4" };

interface PictureButtonsProps {
  generation: Generation;
  image: GeneratedImage;
  onUse?: (draft: Draft) => void;
}

/** The form that draws one picture of a generation again: its own words, model, weight and seed. */
function again(generation: Generation, image: GeneratedImage): Draft | null {
  if (!generation.settings) return null;
  const whole = draftOf(generation.settings, image.seed);
  if (!generation.settings.grid) return { ...whole, count: 1 };
  return { ...whole, modelId: image.modelId, prompt: image.prompt, negative: image.negativePrompt, loraWeight: image.loraWeight ?? 1, count: 1, grid: NO_GRID };
}

/** What can be done with one finished picture, and what it is of. */
export function PictureButtons({ generation, image, onUse }: PictureButtonsProps) {
  const { words, format } = useSpeech();
  const { labels } = useChoices();
  const { settings } = generation;
  const dense = settings?.grid !== undefined && !image.isSheet; // there may be hundreds
  const name = image.isSheet ? "grid" : image.seed.toString();
  const file = {
    href: pictureUrl(generation.id, image.index),
    download: `atelier-${generation.id.slice(0, 8)}-${name}.${ENDINGS[image.contentType] ?? "png"}`,
  };
  const use = (change: (draft: Draft) => Draft) => {
    const draft = again(generation, image);
    if (draft) onUse?.(change(draft));
  };
  // A picture of its own from here on: another seed, and nothing of what the first began with.
  const begin = { from: "gallery", generationId: generation.id, index: image.index } as const;
  const start = (draft: Draft): Draft => ({ ...draft, seed: "", width: "", height: "", begin, mask: null, enlarges: false, controls: [] });
  const actions = [
    { label: words.drawing.sameSeed, Icon: IconDice5, shown: true, run: () => use((draft) => draft) },
    { label: words.drawing.useAsStart, Icon: IconPhotoEdit, shown: image.numFrames === 0, run: () => use(start) },
  ].filter(({ shown }) => shown && onUse && !image.isSheet);
  const column = [
    (settings?.grid?.modelIds.length ?? 0) > 1 && (labels.get(image.modelId) ?? String(image.modelId)),
    (settings?.grid?.loraWeights.length ?? 0) > 1 && image.loraWeight !== undefined && format.decimal(image.loraWeight),
  ].filter(Boolean);
  return (
    <Stack gap={4} mt={6}>
      {!image.isSheet && (
        <Text size="xs" c="dimmed">
          {words.drawing.seed} {image.seed.toString()} · {image.width} × {image.height}
          {image.numFrames > 0 && ` · ${words.clip.framesOf(image.numFrames)}`}
        </Text>
      )}
      {image.prompt !== "" && !image.isSheet && (dense || image.prompt !== settings?.prompt) && (
        <Text size="xs" lineClamp={dense ? 2 : 3} title={image.prompt}>
          {image.prompt}
        </Text>
      )}
      {column.length > 0 && !image.isSheet && (
        <Text size="xs" truncate>
          {column.join(" · ")}
        </Text>
      )}
      {image.safety?.isFlagged && (
        <Badge color="red" variant="light" w="fit-content" maw="100%">
          {words.drawing.flagged}
        </Badge>
      )}
      <Group gap={dense ? 4 : 6} justify={image.isSheet ? "center" : undefined}>
        {actions.length > 0 ? (
          <ActionIcon component="a" variant="default" size={26} aria-label={words.drawing.download} title={words.drawing.download} {...file}>
            <IconDownload size={16} aria-hidden />
          </ActionIcon>
        ) : (
          <Button component="a" size="compact-sm" variant="default" leftSection={<IconDownload size={14} aria-hidden />} {...file}>
            {image.isSheet ? words.grid.download : words.drawing.download}
          </Button>
        )}
        {actions.map(({ label, Icon, run }) =>
          dense ? (
            <ActionIcon key={label} variant="default" size={26} aria-label={label} title={label} onClick={run}>
              <Icon size={16} aria-hidden />
            </ActionIcon>
          ) : (
            <Button key={label} size="compact-sm" variant="default" onClick={run}>
              {label}
            </Button>
          ),
        )}
      </Group>
    </Stack>
  );
}

/** How pictures were made: every setting, as the server filled it in. */
export function SettingsList({ generation, onUse }: { generation: Generation; onUse?: (draft: Draft) => void }) {
  const { words, format } = useSpeech();
  const { labels, schedulers } = useChoices();
  const { settings } = generation;
  if (!settings) return null;
  const t = words.drawing;
  const rows = rowsOf(generation, settings, {
    words,
    format,
    label: (id) => labels.get(id) ?? String(id),
    scheduler: schedulers.find((each) => each.scheduler === settings.scheduler)?.displayName ?? t.schedulerOwn,
  });
  return (
    <section>
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h5">
          {t.settingsShown}
        </Title>
        {onUse && (
          <Button size="compact-sm" variant="light" onClick={() => onUse(draftOf(settings, null))}>
            {t.useSettings}
          </Button>
        )}
      </Group>
      <dl className={classes.settings}>
        {rows.map(([name, value]) => [<dt key={`${name}-name`}>{name}</dt>, <dd key={name}>{value}</dd>])}
      </dl>
    </section>
  );
}
