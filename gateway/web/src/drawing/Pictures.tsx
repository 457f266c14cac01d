import { Button, Group, Stack, Text, Title } from "@mantine/core";
import { IconDownload } from "@tabler/icons-react";
import { pictureUrl } from "../api/transport";
import type { GeneratedImage, Generation } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { type Draft, draftOf } from "./draft";
import classes from "./Drawing.module.css";
import { useChoices } from "./useChoices";

const ENDINGS: Record<string, string> = { "image/webp": "webp", "image/jpeg": "jpg" };

interface PictureButtonsProps {
  generation: Generation;
  image: GeneratedImage;
  onUse?: (draft: Draft) => void;
}

/** What can be done with one finished picture. */
export function PictureButtons({ generation, image, onUse }: PictureButtonsProps) {
  const { words } = useSpeech();
  return (
    <Stack gap={4} mt={6}>
      <Text size="xs" c="dimmed">
        {words.drawing.seed} {image.seed.toString()} · {image.width} × {image.height}
      </Text>
      <Group gap={6}>
        <Button
          component="a"
          href={pictureUrl(generation.id, image.index)}
          download={`atelier-${generation.id.slice(0, 8)}-${image.seed}.${ENDINGS[image.contentType] ?? "png"}`}
          size="compact-sm"
          variant="default"
          leftSection={<IconDownload size={14} aria-hidden />}
        >
          {words.drawing.download}
        </Button>
        {onUse && generation.settings && (
          <Button
            size="compact-sm"
            variant="default"
            onClick={() => generation.settings && onUse({ ...draftOf(generation.settings, image.seed), count: 1 })}
          >
            {words.drawing.sameSeed}
          </Button>
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
  const scheduler = schedulers.find((each) => each.scheduler === settings.scheduler)?.displayName ?? t.schedulerOwn;
  const loras = settings.loras.map(({ modelId, weight }) => `${labels.get(modelId) ?? modelId} ${format.decimal(weight ?? 1)}`);
  const rows: [string, string][] = [
    [t.model, generation.modelName],
    [t.prompt, settings.prompt],
    [t.negative, settings.negativePrompt],
    [t.size, `${settings.width} × ${settings.height}`],
    [t.steps, String(settings.steps ?? "")],
    [t.guidance, settings.guidanceScale === undefined ? "" : format.decimal(settings.guidanceScale)],
    [t.scheduler, scheduler],
    [t.seed, settings.seed?.toString() ?? ""],
    [t.loraWeight, settings.loraWeight === undefined ? "" : format.decimal(settings.loraWeight)],
    [t.loras, loras.join(", ")],
    [words.common.created, format.date(generation.createdAt)],
  ];
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
        {rows
          .filter(([, value]) => value !== "")
          .map(([name, value]) => [<dt key={`${name}-name`}>{name}</dt>, <dd key={name}>{value}</dd>])}
      </dl>
    </section>
  );
}
