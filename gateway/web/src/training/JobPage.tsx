import { createClient } from "@connectrpc/connect";
import { useQuery } from "@connectrpc/connect-query";
import { Alert, Anchor, Button, Group, Paper, Progress, SimpleGrid, Skeleton, Stack, Text, Title } from "@mantine/core";
import { IconBrush, IconPlayerPauseFilled, IconPlayerPlayFilled, IconPlayerStopFilled, IconRefresh, IconTrash } from "@tabler/icons-react";
import { type ReactNode, useEffect, useMemo, useState } from "react";
import { Link, useLocation } from "wouter";
import { Failed, notifyFailure } from "../api/Failed";
import { transport } from "../api/transport";
import { Confirm } from "../app/Confirm";
import { Page } from "../app/Page";
import { TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { JobStatus, type TrainingJob } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { Checkpoints } from "./Checkpoints";
import { JobSettings, Log, Samples } from "./JobParts";
import classes from "./JobPage.module.css";
import { jobName } from "./jobs";
import { LossChart } from "./LossChart";
import { useDatasets, useModels } from "./names";
import { forget, lastSeen, type Watched, watchJob } from "./watch";
import { hasEnded } from "./progress";
import { StatusBadge } from "./StatusBadge";

const trainer = createClient(TrainerService, transport);

export default function JobPage({ id }: { id: string }) {
  const { words } = useSpeech();
  const query = useQuery(TrainerService.method.getTrainingJob, { jobId: id }, { retry: 1, refetchOnMount: "always" });
  const job = query.data?.job;
  if (query.error && !job) {
    return (
      <Page title={words.training.job} back={{ to: "/training", label: words.training.back }}>
        <Failed error={query.error} retry={() => void query.refetch()} />
      </Page>
    );
  }
  return job ? <Job job={job} refetch={() => void query.refetch()} /> : <Skeleton height={300} />;
}

function Job({ job, refetch }: { job: TrainingJob; refetch: () => void }) {
  const { words, format } = useSpeech();
  const [, go] = useLocation();
  const [{ progress, lost, error }, setWatched] = useState<Watched>(() => ({
    progress: lastSeen(job.id),
    lost: false,
    error: null,
  }));
  const [asking, setAsking] = useState<"cancel" | "delete" | null>(null);
  // A pending job's stream says nothing until it is started, and beats meanwhile: starting it elsewhere is seen here too.
  // An ended job's stream ends; it is opened again once the job is tried again.
  const goneOn = hasEnded(progress.status) && job.lastSequence > progress.sequence;
  // oxlint-disable-next-line react/exhaustive-effect-dependencies -- that it has gone on opens the stream again
  useEffect(() => watchJob(job.id, setWatched), [job.id, goneOn]);
  const status = goneOn ? job.status : progress.status || job.status;
  useEffect(() => {
    // What events do not carry: times, the place in the queue.
    if (status !== job.status) refetch();
  }, [status, job.status, refetch]);
  const step = progress.steps.at(-1) ?? job.progress;
  const modelId = progress.modelId ?? job.modelId;
  const failure = progress.failure || job.failure?.message;
  const [busy, setBusy] = useState(false);
  const [pausing, setPausing] = useState(false);
  // oxlint-disable-next-line react/set-state-in-effect, react/exhaustive-effect-dependencies -- any change ends the wish
  useEffect(() => setPausing(false), [status]);
  const act = (call: (request: { jobId: string }) => Promise<unknown>) => async () => {
    setBusy(true);
    try {
      await call({ jobId: job.id });
      refetch();
    } catch (failed) {
      notifyFailure(failed, words);
    } finally {
      setBusy(false);
    }
  };
  const share = step && step.totalSteps > 0 ? step.step / step.totalSteps : 0;
  const running = status === JobStatus.RUNNING;
  const best = progress.validations.findLast((each) => each.isBest);
  return (
    <Page
      title={jobName(job)}
      back={{ to: "/training", label: words.training.back }}
      badge={<StatusBadge status={status} />}
      intro={<Origin job={job} />}
      actions={
        <>
          {status === JobStatus.PENDING && (
            <Button
              loading={busy}
              leftSection={<IconPlayerPlayFilled size={16} aria-hidden />}
              onClick={() => void act(trainer.startTrainingJob)()}
            >
              {words.training.start}
            </Button>
          )}
          {(status === JobStatus.RUNNING || status === JobStatus.QUEUED) && (
            <Button
              variant="default"
              loading={busy || pausing}
              leftSection={<IconPlayerPauseFilled size={16} aria-hidden />}
              onClick={() => void act(trainer.pauseTrainingJob)().then(() => setPausing(true))}
            >
              {words.training.pause}
            </Button>
          )}
          {status === JobStatus.PAUSED && (
            <Button
              loading={busy}
              leftSection={<IconPlayerPlayFilled size={16} aria-hidden />}
              onClick={() => void act(trainer.resumeTrainingJob)()}
            >
              {words.training.resume}
            </Button>
          )}
          {(status === JobStatus.FAILED || status === JobStatus.CANCELLED) && (
            <Button
              loading={busy}
              leftSection={<IconRefresh size={16} aria-hidden />}
              onClick={() => void act(trainer.retryTrainingJob)()}
            >
              {words.training.retry}
            </Button>
          )}
          {!hasEnded(status) && (
            <Button
              variant="default"
              leftSection={<IconPlayerStopFilled size={16} aria-hidden />}
              onClick={() => setAsking("cancel")}
            >
              {words.training.cancelJob}
            </Button>
          )}
          {modelId !== undefined && (
            <Button component={Link} href={`/text-to-image?model=${modelId}`} leftSection={<IconBrush size={16} aria-hidden />}>
              {words.training.draw}
            </Button>
          )}
          {(hasEnded(status) || status === JobStatus.PENDING || status === JobStatus.PAUSED) && (
            <Button
              variant="default"
              leftSection={<IconTrash size={16} aria-hidden />}
              onClick={() => setAsking("delete")}
            >
              {words.training.deleteJob}
            </Button>
          )}
        </>
      }
    >
      {lost && (
        <Alert color="yellow" role="status">
          {words.training.reconnecting}
        </Alert>
      )}
      {error !== null && <Failed error={error} />}
      {failure && (
        <Alert color="red" role="alert" title={words.training.status[JobStatus.FAILED]}>
          {failure} <br />
          {words.training.failedHint}
        </Alert>
      )}
      {status === JobStatus.PENDING && <Text>{words.training.pendingHint}</Text>}
      {status === JobStatus.PAUSED && <Text role="status">{words.training.pausedHint}</Text>}
      {status === JobStatus.QUEUED && (
        <Text role="status">{words.training.position(job.queuePosition || progress.queuePosition || 1)}</Text>
      )}
      {running && progress.loading && (
        <Text role="status">
          {words.training.stages[progress.loading.stage]}
          {progress.loading.total > 0 && ` (${progress.loading.done} / ${progress.loading.total})`}…
        </Text>
      )}
      {running && progress.lent && (
        <Alert color="blue" role="status" data-testid="lent">
          {words.training.lent}
        </Alert>
      )}
      {progress.lentMillis > 0n && (
        <Text size="sm" data-testid="lent-for">
          {words.training.lentFor(format.duration(progress.lentMillis))}
        </Text>
      )}
      {step && (
        <>
          <Group gap="sm" wrap="nowrap">
            <Progress
              size="lg"
              value={share * 100}
              animated={running}
              aria-label={words.training.progressOf(step.step, step.totalSteps)}
              className={classes.bar}
            />
            <Text fw={600} data-testid="percent">
              {format.percent(share)}
            </Text>
          </Group>
          <SimpleGrid cols={{ base: 2, xs: 3, md: 6 }} spacing="sm">
            <Figure name={words.training.step} value={`${format.number(step.step)} / ${format.number(step.totalSteps)}`} />
            <Figure name={words.training.epoch} value={`${step.epoch} / ${step.totalEpochs}`} />
            <Figure name={words.training.lossCurve} value={format.decimal(step.smoothedLoss)} />
            <Figure name={words.training.speed} value={format.decimal(step.imagesPerSecond)} />
            {hasEnded(status) ? (
              <Figure name={words.training.elapsed} value={format.duration(step.elapsedMillis)} />
            ) : (
              <Figure name={words.training.left} value={format.duration(step.remainingMillis)} />
            )}
            <Figure name={words.training.memory} value={format.bytes(step.memoryBytes)} />
          </SimpleGrid>
        </>
      )}
      <Section title={words.training.lossCurve}>
        {progress.steps.length > 0 ? (
          <LossChart steps={progress.steps} validations={progress.validations} />
        ) : (
          <Text c="dimmed">{words.training.noSteps}</Text>
        )}
        {best && <Text size="sm">{words.training.bestSoFar(format.decimal(best.loss), best.step)}</Text>}
      </Section>
      <Section title={words.training.samples}>
        <Samples job={job} samples={progress.samples} />
      </Section>
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Section title={words.training.checkpoints}>
          <Checkpoints jobId={job.id} made={progress.checkpoints.length} />
        </Section>
        <Section title={words.training.settings}>
          <JobSettings job={job} />
        </Section>
      </SimpleGrid>
      <Section title={words.training.log}>
        <Log lines={progress.log} />
      </Section>
      {asking === "cancel" && (
        <Confirm
          title={words.training.cancelJob}
          text={words.training.cancelAsk}
          yes={words.training.cancelJob}
          no={words.training.keepRunning}
          onYes={async () => {
            await trainer.cancelTrainingJob({ jobId: job.id });
            refetch();
          }}
          onClose={() => setAsking(null)}
        />
      )}
      {asking === "delete" && (
        <Confirm
          title={words.training.deleteJob}
          text={words.training.deleteAsk}
          yes={words.common.delete}
          onYes={async () => {
            await trainer.deleteTrainingJob({ jobId: job.id });
            forget(job.id);
            go("/training");
          }}
          onClose={() => setAsking(null)}
        />
      )}
    </Page>
  );
}

/** Method, dataset and base model, as links where they are still there. */
function Origin({ job }: { job: TrainingJob }) {
  const { words } = useSpeech();
  const { datasets } = useDatasets();
  const { models } = useModels();
  const dataset = useMemo(() => datasets.find((each) => each.id === job.datasetId), [datasets, job.datasetId]);
  const base = useMemo(() => models.find((each) => each.id === job.baseModelId), [models, job.baseModelId]);
  return (
    <>
      {words.training.methods[job.method]} ·{" "}
      {dataset ? (
        <Anchor component={Link} href={`/datasets/${dataset.id}`} underline="always">
          {dataset.name}
        </Anchor>
      ) : (
        words.training.deletedDataset(job.datasetId)
      )}{" "}
      ({words.common.images(Number(job.numItems))}) ·{" "}
      {base ? (
        <Anchor component={Link} href={`/models/${base.id}`} underline="always">
          {base.name}
        </Anchor>
      ) : (
        words.training.deletedModel(job.baseModelId)
      )}
    </>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Stack gap="xs" component="section" aria-label={title} miw={0}>
      <Title order={2} size="h4">
        {title}
      </Title>
      <Paper withBorder p="md">
        {children}
      </Paper>
    </Stack>
  );
}

function Figure({ name, value }: { name: string; value: string }) {
  return (
    <Paper withBorder p="xs">
      <Text size="xs" c="dimmed">
        {name}
      </Text>
      <Text fw={600} className={classes.figure}>
        {value}
      </Text>
    </Paper>
  );
}
