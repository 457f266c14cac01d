import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { WatchTrainingJobResponseSchema } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { JobStatus, StepProgressSchema, type TrainingEventSchema } from "../gen/atelier/trainer/v1/training_pb";
import { advance, BEGINNING, curve } from "./progress";

type Event = NonNullable<MessageInitShape<typeof TrainingEventSchema>["event"]>;

function answer(sequence: number, event: Event, status = JobStatus.RUNNING) {
  return create(WatchTrainingJobResponseSchema, { status, event: { sequence: BigInt(sequence), event } });
}
const step = (sequence: number, at: number, loss = 1) =>
  answer(sequence, { case: "step", value: { step: at, totalSteps: 10, loss, smoothedLoss: loss } });
const sample = (sequence: number, at: number, index = 0) =>
  answer(sequence, { case: "sample", value: { step: at, index, prompt: "red apple" } });
const beat = (sequence: number, status: JobStatus) => answer(sequence, { case: "heartbeat", value: {} }, status);

test("a stream that was cut and begins again with events seen before changes nothing twice", () => {
  const first = advance(BEGINNING, [step(1, 1), step(2, 2)]);
  const again = advance(first, [step(1, 1), step(2, 2), step(3, 3)]);
  expect(again.steps.map((each) => each.step)).toEqual([1, 2, 3]);
  expect(again.sequence).toBe(3n);
  expect(first.steps.length, "what was held before is not changed").toBe(2);
});

test("a missing event is an error and not a gap in the curve", () => {
  expect(() => advance(BEGINNING, [step(1, 1), step(3, 3)])).toThrow("event 3 came after 1");
});

test("what was measured on the pictures held out is shown at its step, however many points are thinned", () => {
  const steps = Array.from({ length: 500 }, (_, at) => step(at + 1, at + 1, at % 7));
  const measured = answer(501, { case: "validation", value: { step: 500, loss: 0.25, numImages: 4, isBest: true } });
  const { steps: seen, validations } = advance(BEGINNING, [...steps, measured]);
  const [at, , , validation] = curve(seen, 20, [...validations, { ...validations[0]!, step: 123, loss: 0.5 }]);
  expect(at.length).toBeLessThan(25);
  expect(at.flatMap((each, place) => (validation[place] === null ? [] : [[each, validation[place]]]))).toEqual([
    [123, 0.5],
    [500, 0.25],
  ]);
  const again = advance(advance(BEGINNING, [...steps, measured]), [step(502, 400)]);
  expect(again.validations, "what a later attempt does anew is gone").toEqual([]);
});

test("a heartbeat carries the status and moves nothing", () => {
  const after = advance(advance(BEGINNING, [step(1, 1)]), [beat(1, JobStatus.CANCELLED)]);
  expect(after.status).toBe(JobStatus.CANCELLED);
  expect(after.sequence).toBe(1n);
});

test("a job that began again at an earlier step loses the steps, samples and checkpoints it is doing anew", () => {
  const before = advance(BEGINNING, [
    step(1, 1),
    step(2, 2),
    answer(3, { case: "checkpoint", value: { step: 2 } }),
    step(4, 3),
    sample(5, 3),
  ]);
  const after = advance(before, [
    step(6, 1, 7),
    step(7, 2, 8),
    answer(8, { case: "checkpoint", value: { step: 2 } }),
    step(9, 3, 9),
    sample(10, 3),
    sample(11, 3, 1),
  ]);
  expect(after.steps.map(({ step: at, loss }) => [at, loss])).toEqual([[1, 7], [2, 8], [3, 9]]);
  expect(after.samples.map(({ step: at, index }) => [at, index])).toEqual([[3, 0], [3, 1]]);
  expect(after.checkpoints.length).toBe(1);
});

test("the end of a job brings its model, or why there is none", () => {
  const done = advance(BEGINNING, [answer(1, { case: "done", value: { modelId: 101, modelName: "mine" } }, JobStatus.COMPLETED)]);
  expect([done.modelId, done.modelName, done.status]).toEqual([101, "mine", JobStatus.COMPLETED]);
  const failed = advance(BEGINNING, [answer(1, { case: "failed", value: { message: "no memory" } }, JobStatus.FAILED)]);
  expect([failed.modelId, failed.failure]).toEqual([null, "no memory"]);
});

test("a long curve is thinned and keeps its ends, its spike and its dip", () => {
  const steps = Array.from({ length: 50_000 }, (_, index) =>
    create(StepProgressSchema, { step: index + 1, loss: index === 31_234 ? 99 : index === 7_777 ? -99 : 1 }),
  );
  const [at, losses] = curve(steps, 1000);
  expect(at.length).toBeLessThanOrEqual(1000);
  expect(at.at(0)).toBe(1);
  expect(at.at(-1)).toBe(50_000);
  expect(losses).toContain(99);
  expect(losses).toContain(-99);
  expect(at).toEqual(at.toSorted((a, b) => a - b));
});

test("a loan lasts from its one event to its other, and loans add up", () => {
  const lent = (sequence: number, lentMillis?: bigint) => answer(sequence, { case: "lent", value: { lentMillis } });
  const first = advance(BEGINNING, [step(1, 1), lent(2)]);
  expect([first.lent, first.lentMillis]).toEqual([true, 0n]);
  const back = advance(first, [lent(3, 1500n), step(4, 2), lent(5)]);
  expect([back.lent, back.lentMillis]).toEqual([true, 1500n]);
  expect(advance(back, [lent(6, 500n)]).lentMillis).toBe(2000n);
  const lost = advance(back, [answer(6, { case: "queued", value: { position: 1 } }, JobStatus.QUEUED)]);
  expect(lost.lent, "its worker was lost while it was lent").toBe(false);
});
