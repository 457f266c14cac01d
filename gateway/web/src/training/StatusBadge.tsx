import { Badge } from "@mantine/core";
import { JobStatus } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import classes from "./StatusBadge.module.css";

export function StatusBadge({ status }: { status: JobStatus }) {
  const { words } = useSpeech();
  return (
    <Badge className={classes.badge} tt="none" data-testid="job-status" data-status={JobStatus[status]}>
      {words.training.status[status]}
    </Badge>
  );
}
