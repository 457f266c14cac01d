import { Code } from "@connectrpc/connect";
import type { Failure } from "../api/errors";

export type UploadState = "waiting" | "sending" | "checking" | "done" | "duplicate" | "refused" | "failed";

/** One file on its way. */
export interface Upload {
  /** Also the request's id, so that a file sent again after a lost answer is taken once. */
  id: string;
  name: string;
  state: UploadState;
  /** Sent so far, 0 to 1. */
  share: number;
  /** Why it was refused: an UploadRefusal name without its prefix, or empty. */
  reason: string;
  /** The server's words. */
  message: string;
}

export interface UploadSummary {
  total: number;
  /** Ended one way or another. */
  ended: number;
  done: number;
  duplicate: number;
  refused: number;
  failed: number;
  /** Of all files, counting parts of those under way: 0 to 1. */
  share: number;
}

export function summarize(uploads: readonly Upload[]): UploadSummary {
  const summary = { total: uploads.length, ended: 0, done: 0, duplicate: 0, refused: 0, failed: 0, share: 0 };
  let sent = 0;
  for (const upload of uploads) {
    switch (upload.state) {
      case "waiting":
        break;
      case "sending":
      case "checking":
        sent += upload.share * 0.9; // the rest is the server's, which reads the whole picture
        break;
      default:
        summary[upload.state] += 1;
        summary.ended += 1;
        sent += 1;
    }
  }
  return { ...summary, share: uploads.length ? sent / uploads.length : 0 };
}

/** What an upload that ended with an error has come to. */
export function outcome(failure: Failure): Pick<Upload, "state" | "reason" | "message"> {
  const { code, message } = failure;
  if (code === Code.AlreadyExists) return { state: "duplicate", reason: "", message };
  if (code === Code.InvalidArgument) {
    return { state: "refused", reason: failure.reason.replace(/^UPLOAD_REFUSAL_/, ""), message };
  }
  return { state: "failed", reason: "", message };
}

const ORDER: Record<UploadState, number> = {
  refused: 0, failed: 1, checking: 2, sending: 3, waiting: 4, done: 5, duplicate: 6,
};

/** What to list, the most important first, `most` at most: thousands of rows would help nobody. */
export function shown(uploads: readonly Upload[], most: number): Upload[] {
  const troubled = uploads.filter((upload) => upload.state === "refused" || upload.state === "failed").length;
  return uploads.toSorted((a, b) => ORDER[a.state] - ORDER[b.state]).slice(0, Math.max(most, troubled));
}
