import { createClient } from "@connectrpc/connect";
import { isTransient } from "../api/errors";
import { transport } from "../api/transport";
import { TrainerService, type WatchTrainingJobResponse } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { backoff, wait } from "../lib/retry";
import { advance, BEGINNING, hasEnded, type JobProgress } from "./progress";

/** The server beats every 15 s: a stream that is silent for longer than two beats is dead, whatever the network says. */
const SILENCE = 40_000;
const trainer = createClient(TrainerService, transport);

export interface Watched {
  progress: JobProgress;
  /** No stream at the moment, and one is being tried. */
  lost: boolean;
  /** What cannot be tried again, such as a job that is not there. */
  error: unknown;
}

type Listener = (watched: Watched) => void;

/** Kept between visits of a job's page, so that coming back shows at once what was seen and asks for the rest alone. */
const seen = new Map<string, JobProgress>();

export function lastSeen(jobId: string): JobProgress {
  return seen.get(jobId) ?? BEGINNING;
}

export function forget(jobId: string): void {
  seen.delete(jobId);
}

/** Follows a job to its end, over as many streams as it takes. Gives what stops it. */
export function watchJob(jobId: string, listener: Listener): () => void {
  const stop = new AbortController();
  void follow(jobId, listener, stop.signal);
  return () => stop.abort();
}

async function follow(jobId: string, listener: Listener, signal: AbortSignal): Promise<void> {
  const tell = (lost: boolean, error: unknown = null) => {
    if (!signal.aborted) listener({ progress: lastSeen(jobId), lost, error });
  };
  let attempt = 0;
  while (!signal.aborted) {
    try {
      // one stream after another
      await readStream(jobId, signal, () => {
        attempt = 0;
        tell(false);
      });
      if (hasEnded(lastSeen(jobId).status)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (!isTransient(error) && !(error instanceof Silent)) {
        tell(false, error);
        return;
      }
    }
    attempt += 1;
    if (attempt > 1) tell(true);
    await wait(backoff(attempt), signal);
  }
}

class Silent extends Error {}

/** Reads one stream to its end. Answers are taken in by the frame: a long past comes as thousands of them at once. */
async function readStream(jobId: string, signal: AbortSignal, onChange: () => void): Promise<void> {
  const cut = new AbortController();
  const abort = () => cut.abort();
  signal.addEventListener("abort", abort);
  let silence = setTimeout(abort, SILENCE);
  let answers: WatchTrainingJobResponse[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = () => {
    timer = undefined;
    if (answers.length === 0) return;
    seen.set(jobId, advance(lastSeen(jobId), answers));
    answers = [];
    onChange();
  };
  try {
    const request = { jobId, afterSequence: lastSeen(jobId).sequence };
    for await (const answer of trainer.watchTrainingJob(request, { signal: cut.signal })) {
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE);
      answers.push(answer);
      timer ??= setTimeout(flush, 50);
    }
  } catch (error) {
    throw cut.signal.aborted && !signal.aborted ? new Silent() : error;
  } finally {
    clearTimeout(silence);
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    flush();
  }
}
