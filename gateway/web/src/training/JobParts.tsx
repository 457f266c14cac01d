import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Anchor, Text } from "@mantine/core";
import { useEffect, useRef } from "react";
import { sampleUrl, sheetUrl } from "../api/urls";
import { LogLevel, type SampleEvent, type TrainingJob } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import classes from "./JobPage.module.css";
import type { LogLine } from "./progress";

/** Pictures drawn while training, newest first. */
export function Samples({ job, samples }: { job: TrainingJob; samples: readonly SampleEvent[] }) {
  const { words } = useSpeech();
  if (samples.length === 0) {
    const asked = (job.config?.samples?.prompts.length ?? 0) > 0;
    return <Text c="dimmed">{asked ? words.training.noSamples : words.training.noSamplesAsked}</Text>;
  }
  return (
    <>
      <ul className={classes.samples}>
        {samples.toReversed().map((sample) => (
          <li key={`${sample.step}-${sample.index}-${sample.sha256}`}>
            <a href={sampleUrl(job.id, sample.sha256)} target="_blank" rel="noreferrer">
              <img
                src={sampleUrl(job.id, sample.sha256)}
                alt={words.training.sampleAt(sample.step, sample.prompt)}
                width={sample.width}
                height={sample.height}
                style={{ height: "auto" }}
                loading="lazy"
                className={classes.sample}
              />
            </a>
            <Text size="xs" lineClamp={2}>
              {words.training.step} {sample.step} · {sample.prompt}
            </Text>
          </li>
        ))}
      </ul>
      <Anchor href={sheetUrl(job.id)} target="_blank" rel="noreferrer" size="sm" underline="always">
        {words.training.sheet}
      </Anchor>
    </>
  );
}

/** The configuration as the server filled it in. */
export function JobSettings({ job }: { job: TrainingJob }) {
  const { words, format } = useSpeech();
  const { config } = job;
  const t = words.training;
  if (!config) return null;
  const rows: [string, string | number | undefined][] = [
    [t.learningRate, config.learningRate !== undefined ? format.decimal(config.learningRate) : undefined],
    [t.batchSize, config.batchSize],
    [t.epochs, config.maxSteps === undefined ? config.epochs : undefined],
    [t.maxSteps, config.maxSteps],
    [t.rank, config.lora?.rank],
    [t.alpha, config.lora?.alpha],
    [t.resolution, config.resolution],
    [t.seed, config.seed?.toString()],
    [t.precision, t.precisions[config.mixedPrecision]],
    [t.optimizer, t.optimizers[config.optimizer || 1]],
    [t.emaDecay, config.emaDecay || undefined],
    [t.heldOut, config.validation?.share ? format.percent(config.validation.share) : undefined],
    [t.patience, config.validation?.patience || undefined],
    [t.shareDevice, config.shareDevice ? "✓" : undefined],
    [t.schedule, t.schedules[config.schedule || 1]],
    [t.triggerWord, config.triggerWord || undefined],
    [t.instancePrompt, config.dreambooth?.instancePrompt || undefined],
    [t.classPrompt, config.dreambooth?.classPrompt || undefined],
    [t.samples, config.samples?.prompts.join("; ") || undefined],
    [words.common.created, format.date(job.createdAt)],
  ];
  return (
    <dl className={classes.settings}>
      {rows
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => [<dt key={`${name}-name`}>{name}</dt>, <dd key={name}>{value}</dd>])}
    </dl>
  );
}

const SHOWN_LINES = 2000;

/** The worker's lines, the last in view while one has not scrolled up. */
export function Log({ lines }: { lines: readonly LogLine[] }) {
  const { words, language } = useSpeech();
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  useEffect(() => {
    if (box.current && atEnd.current) box.current.scrollTop = box.current.scrollHeight;
  });
  if (lines.length === 0) return <Text c="dimmed">{words.training.noLog}</Text>;
  const first = Math.max(0, lines.length - SHOWN_LINES);
  return (
    <div
      ref={box}
      className={classes.log}
      role="log"
      aria-label={words.training.log}
      // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- it scrolls, so the keyboard must reach it
      tabIndex={0}
      onScroll={({ currentTarget: it }) => {
        atEnd.current = it.scrollHeight - it.scrollTop - it.clientHeight < 24;
      }}
    >
      {lines.slice(first).map(({ at, line }, index) => (
        <div key={first + index} className={line.level >= LogLevel.WARNING ? classes.bad : undefined}>
          {at && `${timestampDate(at).toLocaleTimeString(language)}  `}
          {line.message}
        </div>
      ))}
    </div>
  );
}
