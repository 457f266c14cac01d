import { Button, FileButton, Group, Paper, Progress, ScrollArea, Stack, Text } from "@mantine/core";
import { IconUpload } from "@tabler/icons-react";
import { type DragEvent, useState } from "react";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { pairCaptions } from "./files";
import classes from "./UploadPanel.module.css";
import { shown, summarize, type Upload } from "./uploads";
import { useUploads } from "./useUploads";

const ROWS = 60;
type Landed = (images: readonly Image[]) => void;

const PICTURES = "image/jpeg,image/png,image/webp,.txt,.caption";
const CLIPS = "video/mp4,video/webm,video/quicktime,image/gif,image/webp,.txt,.caption";

interface UploadPanelProps {
  datasetId: number;
  /** It takes clips. */
  video: boolean;
  onLanded: Landed;
}

/** Where pictures or clips are dropped or picked, and how each of them fares. */
export function UploadPanel({ datasetId, video, onLanded }: UploadPanelProps) {
  const { words } = useSpeech();
  const [over, setOver] = useState(false);
  const { uploads, add, retry, stop, clear } = useUploads(datasetId, onLanded);
  const take = async (files: readonly File[]) => {
    if (files.length) add(await pairCaptions(files));
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    void take([...event.dataTransfer.files]);
  };
  return (
    <Stack gap="sm">
      <Paper
        withBorder
        p="lg"
        className={classes.area}
        data-over={over || undefined}
        data-testid="drop-area"
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={drop}
      >
        <Group justify="space-between" gap="md">
          <Group gap="md" wrap="nowrap" miw={0}>
            <IconUpload size={32} stroke={1.5} aria-hidden className={classes.icon} />
            <div>
              <Text fw={600}>{video ? words.upload.dropClips : words.upload.drop}</Text>
              <Text size="sm" c="dimmed">
                {video ? words.upload.orClips : words.upload.or}
              </Text>
            </div>
          </Group>
          <FileButton multiple accept={video ? CLIPS : PICTURES} onChange={(files) => void take(files)}>
            {(props) => (
              <Button {...props} variant="light">
                {words.upload.pick}
              </Button>
            )}
          </FileButton>
        </Group>
      </Paper>
      {uploads.length > 0 && <Uploads uploads={uploads} video={video} retry={retry} stop={stop} clear={clear} />}
    </Stack>
  );
}

interface UploadsProps {
  uploads: readonly Upload[];
  video: boolean;
  retry: () => void;
  stop: (words: string) => void;
  clear: () => void;
}

function Uploads({ uploads, video, retry, stop, clear }: UploadsProps) {
  const { words, format } = useSpeech();
  const sum = summarize(uploads);
  const rows = shown(uploads, ROWS);
  const busy = sum.ended < sum.total;
  const outcomes = [
    words.upload.taken(sum.done),
    sum.duplicate > 0 && words.upload.duplicates(sum.duplicate),
    sum.refused > 0 && words.upload.refused(sum.refused),
    sum.failed > 0 && words.upload.failed(sum.failed),
  ].filter(Boolean);
  return (
    <Paper withBorder p="md" data-testid="uploads">
      <Stack gap="xs">
        <Group justify="space-between">
          <Text size="sm" role="status" aria-live="polite">
            <b>{words.upload.progress(sum.ended, sum.total)}</b> · {outcomes.join(" · ")}
          </Text>
          <Group gap="xs">
            {sum.failed > 0 && (
              <Button size="xs" onClick={retry}>
                {words.upload.retryFailed}
              </Button>
            )}
            {busy ? (
              <Button size="xs" variant="default" onClick={() => stop(words.upload.stopped)}>
                {words.upload.stop}
              </Button>
            ) : (
              <Button size="xs" variant="default" onClick={clear}>
                {words.upload.clear}
              </Button>
            )}
          </Group>
        </Group>
        <Progress
          value={sum.share * 100}
          aria-label={words.upload.progress(sum.ended, sum.total)}
          color={busy ? undefined : sum.refused + sum.failed > 0 ? "orange" : "green"}
        />
        {/* Reachable by keyboard, since it scrolls. */}
        <ScrollArea.Autosize
          mah={220}
          type="auto"
          offsetScrollbars
          viewportProps={{ tabIndex: 0, role: "group", "aria-label": words.upload.progress(sum.ended, sum.total) }}
        >
          <ul className={classes.list}>
            {rows.map((upload) => (
              <li key={upload.id} className={classes.row} data-state={upload.state}>
                <span className={classes.name}>{upload.name}</span>
                <span className={classes.state}>
                  {upload.state === "sending" ? format.percent(upload.share) : describe(upload, video, words.upload)}
                </span>
              </li>
            ))}
          </ul>
          {rows.length < uploads.length && (
            <Text size="sm" c="dimmed">
              {words.upload.filesMore(uploads.length - rows.length)}
            </Text>
          )}
        </ScrollArea.Autosize>
      </Stack>
    </Paper>
  );
}

function describe(upload: Upload, video: boolean, words: ReturnType<typeof useSpeech>["words"]["upload"]): string {
  if (upload.state === "refused") return (video ? words.clipReasons : words.reasons)[upload.reason] ?? upload.message;
  if (upload.state === "failed") return upload.message || words.failed(1);
  return words[upload.state];
}
