import { Badge } from "@mantine/core";
import { JobStatus } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";

const COLORS: Partial<Record<JobStatus, string>> = {
  [JobStatus.QUEUED]: "yellow",
  [JobStatus.RUNNING]: "blue",
  [JobStatus.COMPLETED]: "green",
  [JobStatus.FAILED]: "red",
};

export function StatusBadge({ status }: { status: JobStatus }) {
  const { words } = useSpeech();
  return (
    <Badge variant="light" color={COLORS[status] ?? "gray"} tt="none" data-testid="job-status" data-status={JobStatus[status]}>
      {words.training.status[status]}
    </Badge>
  );
}
