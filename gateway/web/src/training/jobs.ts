import type { TrainingJob } from "../gen/atelier/trainer/v1/training_pb";

/** The name that the job's model has or will have. */
export function jobName(job: Pick<TrainingJob, "id" | "outputName">): string {
  return job.outputName || `Trained-${job.id.slice(0, 8)}`;
}

/** How far a job is: 0 to 1. */
export function progressOf({ progress }: Pick<TrainingJob, "progress">): number {
  return progress && progress.totalSteps > 0 ? progress.step / progress.totalSteps : 0;
}
