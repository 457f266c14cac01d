import { Code, ConnectError } from "@connectrpc/connect";
import type { Words } from "../i18n/en";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb";

/** What a failed call says: for people, for programs, and field by field. */
export interface Failure {
  code: Code;
  message: string;
  /** Stable and in capitals, or empty. */
  reason: string;
  /** Field path as in the proto (`config.lora.rank`) to the rule it breaks. */
  fields: Readonly<Record<string, string>>;
  /** After so many seconds it makes sense to try again; null where the server did not say. */
  retrySeconds: number | null;
}

export function failureOf(error: unknown): Failure {
  const failure = ConnectError.from(error);
  const fields: Record<string, string> = {};
  for (const detail of failure.findDetails(BadRequestSchema)) {
    for (const violation of detail.fieldViolations) fields[violation.field] ??= violation.description;
  }
  const reason = failure.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
  const delay = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const retrySeconds = delay ? Math.max(1, Math.ceil(Number(delay.seconds) + delay.nanos / 1e9)) : null;
  return { code: failure.code, message: failure.rawMessage, reason, fields, retrySeconds };
}

/** Whether the call may succeed if it is made again: the way to the server was lost, not the argument. */
export function isTransient(error: unknown): boolean {
  const { code, reason } = failureOf(error);
  // A broken fetch is Unknown without the details that our services put on every error.
  return code === Code.Unavailable || (code === Code.Unknown && reason === "");
}

/** What is left to say above a form once the fields named in `shown` have their own messages beside them. */
export function remainder(failure: Failure, shown: readonly string[]): string {
  const named = Object.entries(failure.fields);
  if (named.length === 0) return failure.message;
  return named
    .filter(([field]) => !shown.includes(field))
    .map(([field, rule]) => `${field}: ${rule}`)
    .join("; ");
}

/** A failure as a sentence. */
export function explain(error: unknown, words: Words): string {
  const { code, message, reason, retrySeconds } = failureOf(error);
  if (isTransient(error)) return words.errors.unreachable;
  if (reason === "QUEUE_FULL") return words.errors.queueFull(retrySeconds ?? 10);
  if (code === Code.ResourceExhausted && retrySeconds !== null) return `${message}. ${words.errors.tryAgainIn(retrySeconds)}`;
  if (code === Code.NotFound) return message || words.errors.notFound;
  return message || words.errors.unknown;
}
