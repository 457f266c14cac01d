import { Fieldset, NumberInput, SimpleGrid } from "@mantine/core";
import { useSpeech } from "../i18n";
import type { Draft } from "./draft";
import { type FieldsProps, useFields } from "./fields";

/** Shown without being asked for, unlike the sections. */
export const VIDEO: readonly (keyof Draft)[] = ["frames", "fps", "motion", "firstNoise", "sampleClips"];

/** What a model that draws clips asks for. */
export function VideoFields(props: FieldsProps) {
  const { words } = useSpeech();
  const { amount } = useFields(props);
  const t = words.training;
  return (
    <Fieldset legend={t.video}>
      <SimpleGrid style={{ alignItems: "end" }} cols={{ base: 1, xs: 2 }}>
        <NumberInput label={t.frames} description={t.framesHint} {...amount("frames")} allowDecimal={false} />
        <NumberInput label={t.fps} description={t.fpsHint} {...amount("fps")} allowDecimal={false} />
        <NumberInput label={t.motion} description={t.motionHint} {...amount("motion")} allowDecimal={false} />
        <NumberInput label={t.firstNoise} description={t.firstNoiseHint} {...amount("firstNoise")} />
        <NumberInput label={t.sampleClips} description={t.sampleClipsHint} {...amount("sampleClips")} allowDecimal={false} />
      </SimpleGrid>
    </Fieldset>
  );
}
