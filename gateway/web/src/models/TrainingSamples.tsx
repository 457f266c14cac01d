import { Text, Title } from "@mantine/core";
import { useEffect, useState } from "react";
import { sampleUrl } from "../api/urls";
import type { SampleEvent } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { lastSeen, watchJob } from "../training/watch";
import classes from "./Models.module.css";

/** The pictures of the last step at which its job drew any; nothing where it drew none or is deleted. */
export function TrainingSamples({ jobId }: { jobId: string }) {
  const { words } = useSpeech();
  const [samples, setSamples] = useState<readonly SampleEvent[]>(() => lastSeen(jobId).samples);
  useEffect(() => watchJob(jobId, ({ progress }) => setSamples(progress.samples)), [jobId]);
  const last = samples.at(-1)?.step;
  if (last === undefined) return null;
  return (
    <section aria-label={words.models.samples}>
      <Title order={2} size="h4" mb="sm">
        {words.models.samples}
      </Title>
      <ul className={classes.samples} data-testid="training-samples">
        {samples
          .filter(({ step }) => step === last)
          .map(({ index, prompt, sha256, width, height }) => (
            <li key={index}>
              <img
                src={sampleUrl(jobId, sha256)}
                alt={words.training.sampleAt(last, prompt)}
                width={width}
                height={height}
                loading="lazy"
                className={classes.sample}
              />
              <Text size="xs" lineClamp={2} mt={4}>
                {prompt}
              </Text>
            </li>
          ))}
      </ul>
    </section>
  );
}
