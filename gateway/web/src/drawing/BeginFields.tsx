import { Button, FileButton, Group, Input, NumberInput, SimpleGrid, Stack, Text } from "@mantine/core";
import { IconBrush } from "@tabler/icons-react";
import { lazy, Suspense, useState } from "react";
import { useSpeech } from "../i18n";
import type { FieldsProps } from "./Fields";
import { useAmounts } from "./Fields";
import { pictureFrom } from "./files";
import { type Picture, urlOf } from "./inputs";
import { PictureField, Thumbnail } from "./PictureField";

const MaskPainter = lazy(() => import("./MaskPainter"));

/** The picture that is drawn over, how much of it, and where. */
export function BeginFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { draft, set, problem } = props;
  const amount = useAmounts(props);
  const t = words.begin;
  return (
    <Stack gap="sm">
      <PictureField
        label={t.picture}
        description={t.hint}
        value={draft.begin}
        onChange={(begin) => set({ begin, mask: null })}
        error={problem("begin")}
      >
        {draft.begin && <MaskField {...props} picture={draft.begin} />}
      </PictureField>
      {draft.begin && (
        <SimpleGrid cols={2} spacing="sm" style={{ alignItems: "end" }}>
          <NumberInput label={t.strength} description={t.strengthHint} step={0.05} max={1} decimalScale={3} {...amount("strength")} />
          {draft.mask && (
            <NumberInput label={t.maskBlur} description={t.maskBlurHint} allowDecimal={false} max={256} {...amount("maskBlur")} />
          )}
        </SimpleGrid>
      )}
    </Stack>
  );
}

function MaskField({ draft, set, problem, picture }: FieldsProps & { picture: Picture }) {
  const { words } = useSpeech();
  const t = words.mask;
  const [painting, setPainting] = useState(false);
  const [unreadable, setUnreadable] = useState(false);
  const take = async (file: File | null) => {
    if (!file) return;
    const mask = await pictureFrom(file, file.name).catch(() => null);
    setUnreadable(mask === null);
    if (mask) set({ mask });
  };
  return (
    <Input.Wrapper error={unreadable ? words.inputs.unreadable : problem("mask")}>
      <Group gap="sm" wrap="nowrap">
        {draft.mask && <Thumbnail picture={draft.mask} />}
        <Group gap={4}>
          <Button
            size="compact-sm"
            variant="light"
            leftSection={<IconBrush size={14} aria-hidden />}
            disabled={urlOf(picture) === ""}
            onClick={() => setPainting(true)}
          >
            {draft.mask ? t.again : t.title}
          </Button>
          {draft.mask ? (
            <Button size="compact-sm" variant="subtle" color="red" onClick={() => set({ mask: null })}>
              {t.remove}
            </Button>
          ) : (
            <FileButton accept="image/png,image/jpeg,image/webp" onChange={(file) => void take(file)}>
              {(props) => (
                <Button {...props} size="compact-sm" variant="subtle">
                  {t.file}
                </Button>
              )}
            </FileButton>
          )}
        </Group>
      </Group>
      <Text size="xs" c="dimmed" mt={4}>
        {draft.mask ? t.there : t.none}
      </Text>
      {painting && (
        <Suspense>
          <MaskPainter picture={picture} mask={draft.mask} onDone={(mask) => set({ mask })} onClose={() => setPainting(false)} />
        </Suspense>
      )}
    </Input.Wrapper>
  );
}

/** What a model that draws clips begins with, and how it moves. */
export function ClipFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { draft, set, problem } = props;
  const amount = useAmounts(props);
  const t = words.clip;
  return (
    <Stack gap="sm">
      <PictureField label={t.picture} description={t.hint} value={draft.begin} onChange={(begin) => set({ begin })} error={problem("begin")} />
      <SimpleGrid cols={2} spacing="sm" style={{ alignItems: "end" }}>
        <NumberInput label={t.frames} placeholder={words.drawing.own} allowDecimal={false} max={128} {...amount("frames")} />
        <NumberInput label={t.fps} allowDecimal={false} max={60} {...amount("fps")} />
        <NumberInput label={t.motion} description={t.motionHint} allowDecimal={false} max={255} {...amount("motion")} />
        <NumberInput label={t.noise} description={t.noiseHint} step={0.01} max={10} {...amount("noise")} />
      </SimpleGrid>
    </Stack>
  );
}

