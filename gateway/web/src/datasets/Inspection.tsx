import { createClient } from "@connectrpc/connect";
import { Alert, Button, Group, Progress, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { Failed } from "../api/Failed";
import { transport } from "../api/transport";
import { originalUrl, thumbnailUrl } from "../api/urls";
import { CatalogService, type DatasetInspection, type Finding, FindingKind, type InspectionProgress } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { useSpeech } from "../i18n";
import classes from "./Inspection.module.css";

const catalog = createClient(CatalogService, transport);
const SHOWN = 12;

interface InspectionProps {
  datasetId: number;
  /** Picks pictures in the grid, to look at them or to delete them. */
  onSelect: (imageIds: readonly number[]) => void;
  onClose: () => void;
}

/** What a trainer should know of the pictures, as it is found out. */
export function Inspection({ datasetId, onSelect, onClose }: InspectionProps) {
  const { words, format } = useSpeech();
  const t = words.inspection;
  const [progress, setProgress] = useState<InspectionProgress | null>(null);
  const [found, setFound] = useState<DatasetInspection | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const leaving = new AbortController();
    const inspect = async () => {
      try {
        for await (const { answer } of catalog.inspectDataset({ datasetId }, { signal: leaving.signal })) {
          if (answer.case === "progress") setProgress(answer.value);
          if (answer.case === "inspection") setFound(answer.value);
        }
      } catch (failed) {
        if (!leaving.signal.aborted) setError(failed);
      }
    };
    void inspect();
    return () => leaving.abort();
    // oxlint-disable-next-line react/exhaustive-effect-dependencies -- another attempt asks again
  }, [datasetId, attempt]);
  const again = () => {
    setError(null);
    setAttempt((before) => before + 1);
  };
  if (error !== null) return <Failed error={error} retry={again} />;
  if (found === null) {
    const share = progress && progress.total > 0n ? (100 * Number(progress.done)) / Number(progress.total) : 0;
    return (
      <div role="status">
        <Text size="sm">{t.measuring}</Text>
        <Progress value={share} animated aria-label={t.measuring} />
      </div>
    );
  }
  return (
    <Alert
      variant="default"
      title={t.title(Number(found.numImages), found.resolution)}
      withCloseButton
      onClose={onClose}
      closeButtonLabel={words.common.close}
      role="region"
      aria-label={t.inspect}
      data-testid="inspection"
    >
      <Stack gap="md">
        {found.findings.length === 0 && <Text>{t.nothing}</Text>}
        {found.findings.map((finding) => (
          <One key={`${finding.kind}-${finding.imageIds[0]}`} finding={finding} onSelect={onSelect} />
        ))}
        {found.buckets.length > 1 && (
          <Text size="sm" c="dimmed">
            {t.buckets} {found.buckets.map((each) => `${each.width} × ${each.height}: ${format.number(Number(each.numImages))}`).join(" · ")}
          </Text>
        )}
      </Stack>
    </Alert>
  );
}

function One({ finding, onSelect }: { finding: Finding; onSelect: (imageIds: readonly number[]) => void }) {
  const { words } = useSpeech();
  const t = words.inspection;
  const alike = finding.kind === FindingKind.EXACT_DUPLICATES || finding.kind === FindingKind.NEAR_DUPLICATES;
  // Of pictures that are alike, one is worth keeping.
  const doubtful = alike ? finding.imageIds.slice(1) : finding.imageIds;
  const number = Number(finding.numImages);
  return (
    <div>
      <Group justify="space-between" gap="xs">
        <Text fw={600} size="sm">
          {t.kinds[finding.kind]?.(number)}
          {finding.detail && <> · “{finding.detail}”</>}
        </Text>
        <Button size="compact-xs" variant="default" onClick={() => onSelect(doubtful)}>
          {alike ? t.selectAllButFirst : t.select}
        </Button>
      </Group>
      <ul className={classes.pictures}>
        {finding.imageIds.slice(0, SHOWN).map((id) => (
          <li key={id}>
            <a href={originalUrl(id)} target="_blank" rel="noreferrer">
              <img src={thumbnailUrl(id)} alt={t.picture(id)} width={64} height={64} loading="lazy" className={classes.picture} />
            </a>
          </li>
        ))}
        {number > SHOWN && <li className={classes.more}>{t.more(number - SHOWN)}</li>}
      </ul>
    </div>
  );
}
