import { Alert } from "@mantine/core";
import type { EstimateTrainingJobResponse } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { useSpeech } from "../i18n";
import classes from "./JobPage.module.css";

/** What the job would take, as it was measured. */
export function Estimate({ found }: { found: EstimateTrainingJobResponse }) {
  const { words, format } = useSpeech();
  const t = words.training;
  const rows: [string, string][] = [
    [t.estimateSteps, t.estimateStepsOf(found.totalSteps, found.totalEpochs, Number(found.numImages))],
    [t.memory, t.ofAll(format.bytes(found.memoryBytes), format.bytes(found.memoryTotalBytes))],
    [t.duration, format.duration(found.durationMillis)],
    [t.disk, t.ofFree(format.bytes(found.diskBytes), format.bytes(found.diskFreeBytes))],
    [t.parameters, format.number(Number(found.trainedParameters))],
  ];
  return (
    <Alert variant="default" role="status" title={t.estimateTitle} data-testid="estimate">
      <dl className={classes.settings}>
        {rows.map(([name, value]) => [<dt key={`${name}-name`}>{name}</dt>, <dd key={name}>{value}</dd>])}
      </dl>
    </Alert>
  );
}
