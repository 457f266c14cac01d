import { createClient } from "@connectrpc/connect";
import { Alert, Button, Checkbox, Group, Progress, Stack, Text, TextInput } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import { Failed } from "../api/Failed";
import { transport } from "../api/transport";
import { type CaptionProgress, type CaptionSummary, TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { useSpeech } from "../i18n";

const trainer = createClient(TrainerService, transport);

interface CaptioningProps {
  datasetId: number;
  /** The deployment's captioning model. */
  model: string;
  /** A caption is stored. */
  onCaption: (imageId: number, caption: string) => void;
  onClose: () => void;
}

/** Captions written by a model, as they come. Closing it stops the writing. */
export function Captioning({ datasetId, model, onCaption, onClose }: CaptioningProps) {
  const { words } = useSpeech();
  const t = words.captioning;
  const [overwrite, setOverwrite] = useState(false);
  const [prefix, setPrefix] = useState("");
  const [progress, setProgress] = useState<CaptionProgress | null>(null);
  const [running, setRunning] = useState(false);
  const [summary, setSummary] = useState<CaptionSummary | null>(null);
  const [error, setError] = useState<unknown>(null);
  const leaving = useRef<AbortController | null>(null);
  useEffect(() => () => leaving.current?.abort(), []);

  const write = async () => {
    const stop = new AbortController();
    leaving.current = stop;
    setError(null);
    setSummary(null);
    setProgress(null);
    setRunning(true);
    try {
      for await (const { answer } of trainer.captionDataset({ datasetId, overwrite, prefix }, { signal: stop.signal })) {
        if (answer.case === "summary") {
          setSummary(answer.value);
          setRunning(false);
        }
        if (answer.case !== "progress") continue;
        setProgress(answer.value);
        if (answer.value.imageId) onCaption(answer.value.imageId, answer.value.caption);
      }
    } catch (failed) {
      if (!stop.signal.aborted) setError(failed);
    } finally {
      if (leaving.current === stop) setRunning(false);
    }
  };
  const share = progress && progress.total > 0n ? (100 * Number(progress.done)) / Number(progress.total) : 0;
  return (
    <Alert
      variant="default"
      title={t.title(model)}
      withCloseButton
      onClose={onClose}
      closeButtonLabel={words.common.close}
      role="region"
      aria-label={t.title(model)}
      data-testid="captioning"
    >
      <Stack gap="sm">
        <TextInput
          label={t.prefix}
          description={t.prefixHint}
          value={prefix}
          disabled={running}
          onChange={(event) => setPrefix(event.currentTarget.value)}
        />
        <Checkbox
          label={t.overwrite}
          checked={overwrite}
          disabled={running}
          onChange={(event) => setOverwrite(event.currentTarget.checked)}
        />
        {error !== null && <Failed error={error} retry={() => void write()} />}
        {running && (
          <div role="status">
            <Text size="sm">{share > 0 ? t.writing(Number(progress?.done), Number(progress?.total)) : t.loading}</Text>
            <Progress value={share} animated aria-label={t.loading} />
            {progress?.caption && <Text size="sm">{progress.caption}</Text>}
          </div>
        )}
        {summary && (
          <Text role="status">
            {t.done(Number(summary.numCaptioned), Number(summary.numKept), summary.damagedImageIds.length)}
          </Text>
        )}
        <Group>
          {running ? (
            <Button variant="default" onClick={() => leaving.current?.abort()}>
              {t.stop}
            </Button>
          ) : (
            <Button onClick={() => void write()}>{t.start}</Button>
          )}
        </Group>
      </Stack>
    </Alert>
  );
}
