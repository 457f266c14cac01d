import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { WatchTrainingJobResponse } from "../gen/atelier/trainer/v1/trainer_service_pb";
import {
  type Checkpoint,
  JobStatus,
  type LoadingEvent,
  type LogEvent,
  type SampleEvent,
  type StepProgress,
  type ValidationEvent,
} from "../gen/atelier/trainer/v1/training_pb";

/** What is known of a job from its events: kept while one looks at other pages, and gone on with from `sequence`. */
export interface JobProgress {
  /** The last event that is in here: where a new stream begins. */
  sequence: bigint;
  status: JobStatus;
  steps: readonly StepProgress[];
  loading: LoadingEvent | null;
  queuePosition: number;
  samples: readonly SampleEvent[];
  checkpoints: readonly Checkpoint[];
  validations: readonly ValidationEvent[];
  log: readonly LogLine[];
  modelId: number | null;
  modelName: string;
  failure: string;
  /** The device is lent to the Generator just now. */
  lent: boolean;
  /** For which it was, all loans that are over together. */
  lentMillis: bigint;
}

export interface LogLine {
  at: Timestamp | undefined;
  line: LogEvent;
}

export const BEGINNING: JobProgress = {
  sequence: 0n,
  status: JobStatus.UNSPECIFIED,
  steps: [],
  loading: null,
  queuePosition: 0,
  samples: [],
  checkpoints: [],
  validations: [],
  log: [],
  modelId: null,
  modelName: "",
  failure: "",
  lent: false,
  lentMillis: 0n,
};

export function hasEnded(status: JobStatus): boolean {
  return status === JobStatus.COMPLETED || status === JobStatus.FAILED || status === JobStatus.CANCELLED;
}

/**
 * The progress after some more answers of the stream. Events that were seen before, as after a cut, change nothing; a
 * missing one is an error, since the curve would be wrong from there on.
 */
export function advance(before: JobProgress, answers: readonly WatchTrainingJobResponse[]): JobProgress {
  const steps = [...before.steps];
  const samples = [...before.samples];
  const checkpoints = [...before.checkpoints];
  const validations = [...before.validations];
  const log = [...before.log];
  const after = { ...before };
  for (const { event, status } of answers) {
    after.status = status;
    if (!event || event.event.case === "heartbeat" || event.sequence <= after.sequence) continue;
    if (event.sequence !== after.sequence + 1n) {
      throw new Error(`event ${event.sequence} came after ${after.sequence}`);
    }
    after.sequence = event.sequence;
    const { event: it } = event;
    // Between its two events a loan knows nothing but lines of the log: anything else is a worker that was lost while lent.
    if (it.case !== "lent" && it.case !== "log") after.lent = false;
    switch (it.case) {
      case "queued":
        after.queuePosition = it.value.position;
        after.failure = ""; // it is tried again
        break;
      case "loading":
        after.loading = it.value;
        break;
      case "step":
        // A job that went back to the queue begins again at an earlier step: what it did after that is gone.
        dropFrom(steps, it.value.step);
        dropFrom(samples, it.value.step);
        dropFrom(validations, it.value.step);
        steps.push(it.value);
        after.loading = null;
        break;
      case "validation":
        validations.push(it.value);
        break;
      case "sample":
        samples.push(it.value);
        break;
      case "checkpoint":
        dropFrom(checkpoints, it.value.step);
        checkpoints.push(it.value);
        break;
      case "lent":
        after.lent = it.value.lentMillis === undefined;
        after.lentMillis += it.value.lentMillis ?? 0n;
        break;
      case "log":
        log.push({ at: event.createdAt, line: it.value });
        break;
      case "done":
        after.modelId = it.value.modelId;
        after.modelName = it.value.modelName;
        after.loading = null;
        break;
      case "failed":
        after.failure = it.value.message;
        after.loading = null;
        break;
      case "cancelled":
      case "paused":
        after.loading = null;
        break;
    }
  }
  return { ...after, steps, samples, checkpoints, validations, log };
}

function dropFrom(points: { step: number }[], step: number): void {
  while (points.length > 0 && (points.at(-1)?.step ?? 0) >= step) points.pop();
}

export type Curve = [steps: number[], losses: number[], smoothed: number[], validation: (number | null)[]];

/**
 * The loss curve in at most about `most` points: the lowest and the highest loss of each of equal stretches, as the
 * server thins it, since a stride would lose the spikes that one looks for. Steps that were validated all stay.
 */
export function curve(steps: readonly StepProgress[], most: number, validations: readonly ValidationEvent[] = []): Curve {
  const measured = new Map(validations.map((each) => [each.step, each.loss]));
  let kept = steps;
  if (steps.length > most) {
    const chosen = new Set(thin(steps, most));
    kept = steps.filter((at) => chosen.has(at) || measured.has(at.step));
  }
  return [
    kept.map((at) => at.step),
    kept.map((at) => at.loss),
    kept.map((at) => at.smoothedLoss),
    kept.map((at) => measured.get(at.step) ?? null),
  ];
}

function thin(steps: readonly StepProgress[], most: number): StepProgress[] {
  const buckets = Math.max(1, Math.floor((most - 2) / 2));
  const kept = new Set([0, steps.length - 1]);
  const inner = steps.length - 2;
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const begin = 1 + Math.floor((bucket * inner) / buckets);
    const end = 1 + Math.floor(((bucket + 1) * inner) / buckets);
    let low = begin;
    let high = begin;
    for (let index = begin; index < end; index += 1) {
      const loss = steps[index]?.loss ?? 0;
      if (loss < (steps[low]?.loss ?? 0)) low = index;
      if (loss > (steps[high]?.loss ?? 0)) high = index;
    }
    kept.add(low).add(high);
  }
  return [...kept].toSorted((a, b) => a - b).map((index) => steps[index] as StepProgress);
}
