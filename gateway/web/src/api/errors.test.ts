import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb";
import { en } from "../i18n/en";
import { fr } from "../i18n/fr";
import { explain, failureOf } from "./errors";

const full = (reason: string, seconds: bigint, nanos = 0) =>
  new ConnectError("4 generations of someone are waiting already", Code.ResourceExhausted, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: "atelier" } },
    { desc: RetryInfoSchema, value: { retryDelay: { seconds, nanos } } },
  ]);

test("a full queue is said in the reader's language, with the wait", () => {
  expect(explain(full("QUEUE_FULL", 12n), en)).toBe("As many drawings are waiting as may wait. Try again in about 12 seconds.");
  expect(explain(full("QUEUE_FULL", 300n), fr)).toMatch(/environ 5 minutes\.$/);
  expect(explain(full("QUEUE_FULL", 0n, 20_000_000), en), "never at once").toMatch(/1 second\.$/);
});

test("whatever else is exhausted says itself what, and when to try again", () => {
  expect(explain(full("OUT_OF_MEMORY", 5n), en)).toBe("4 generations of someone are waiting already. Try again in about 5 seconds.");
  expect(explain(new ConnectError("no room", Code.ResourceExhausted), en)).toBe("no room");
});

test("the rules of fields are told apart", () => {
  const fieldViolations = [{ field: "settings.steps", description: "must be 1 or more" }];
  const failure = failureOf(new ConnectError("refused", Code.InvalidArgument, undefined, [{ desc: BadRequestSchema, value: { fieldViolations } }]));
  expect(failure).toMatchObject({ fields: { "settings.steps": "must be 1 or more" }, retrySeconds: null });
});
