import { useInfiniteQuery, useMutation } from "@connectrpc/connect-query";
import { ActionIcon, Anchor, Button, Group, Paper, Progress, Skeleton, Stack, Text } from "@mantine/core";
import { IconArrowBarToUp, IconPlayerPlayFilled, IconPlus } from "@tabler/icons-react";
import { useMemo, useState } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { Failed, notifyFailure } from "../api/Failed";
import { More } from "../app/More";
import { Empty, Page } from "../app/Page";
import { TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { JobStatus, type TrainingJob } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { jobName, progressOf } from "./jobs";
import { JobForm } from "./JobForm";
import { hasEnded } from "./progress";
import { StatusBadge } from "./StatusBadge";
import classes from "./TrainingPage.module.css";
import { useDatasets, useModels } from "./names";

const SOON = 1000;
const LATER = 10_000;

export default function TrainingPage() {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const search = new URLSearchParams(useSearch());
  const wanted = search.get("new");
  const [creating, setCreating] = useState(wanted !== null || search.has("model"));
  const { datasets } = useDatasets();
  const { models } = useModels();
  const list = useInfiniteQuery(TrainerService.method.listTrainingJobs, { pageSize: 50, pageToken: "" }, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchOnMount: "always",
    // Often while something moves, now and then to see what others began.
    refetchInterval: (query) =>
      query.state.data?.pages.some((page) => page.jobs.some((job) => isMoving(job))) ? SOON : LATER,
  });
  const jobs = list.data?.pages.flatMap((page) => page.jobs) ?? [];
  const names = useMemo(
    () => ({
      datasets: new Map(datasets.map((each) => [each.id, each.name])),
      models: new Map(models.map((each) => [each.id, each.name])),
    }),
    [datasets, models],
  );
  const button = (
    <Button leftSection={<IconPlus size={16} aria-hidden />} onClick={() => setCreating(true)}>
      {words.training.create}
    </Button>
  );
  const close = () => {
    setCreating(false);
    go("/training", { replace: true });
  };
  return (
    <Page title={words.training.title} intro={words.training.intro} actions={jobs.length > 0 && button}>
      {list.error && <Failed error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && <Skeleton height={160} />}
      {list.isSuccess && jobs.length === 0 && (
        <Empty title={words.training.emptyTitle} hint={words.training.emptyHint} action={button} />
      )}
      {jobs.length > 0 && (
        <Stack component="ul" gap="sm" className={classes.list} aria-label={words.training.jobs}>
          {jobs.map((job) => (
            <JobRow
              key={job.id}
              job={job}
              dataset={names.datasets.get(job.datasetId) ?? words.training.deletedDataset(job.datasetId)}
              base={names.models.get(job.baseModelId) ?? words.training.deletedModel(job.baseModelId)}
              top={Math.max(...jobs.map((each) => each.priority))}
              onChanged={() => void list.refetch()}
            />
          ))}
        </Stack>
      )}
      <More list={list} />
      {creating && (
        <JobForm
          datasetId={wanted ? Number(wanted) : undefined}
          baseModelId={search.has("model") ? Number(search.get("model")) : undefined}
          onClose={close}
          onCreated={() => {
            close();
            void list.refetch();
          }}
        />
      )}
    </Page>
  );
}

function isMoving(job: TrainingJob): boolean {
  return job.status === JobStatus.QUEUED || job.status === JobStatus.RUNNING;
}

interface JobRowProps {
  job: TrainingJob;
  dataset: string;
  base: string;
  /** The highest priority of all jobs. */
  top: number;
  onChanged: () => void;
}

function JobRow({ job, dataset, base, top, onChanged }: JobRowProps) {
  const { words, format } = useSpeech();
  const start = useMutation(TrainerService.method.startTrainingJob);
  const prioritize = useMutation(TrainerService.method.prioritizeTrainingJob);
  const name = jobName(job);
  const { progress } = job;
  const act = async (deed: Promise<unknown>) => {
    try {
      await deed;
      onChanged();
    } catch (error) {
      notifyFailure(error, words);
    }
  };
  const facts = [
    words.training.methods[job.method],
    dataset,
    base,
    job.status === JobStatus.QUEUED && job.queuePosition > 0 && words.training.position(job.queuePosition),
    job.status === JobStatus.RUNNING && progress && words.training.progressOf(progress.step, progress.totalSteps),
    job.status === JobStatus.RUNNING && progress && format.duration(progress.remainingMillis),
  ];
  return (
    <Paper component="li" withBorder p="md" data-testid="job-row">
      <Group justify="space-between" wrap="nowrap" gap="sm">
        <div className={classes.facts}>
          <Group gap="xs">
            <Anchor component={Link} href={`/training/${job.id}`} fw={600} className={classes.name}>
              {name}
            </Anchor>
            <StatusBadge status={job.status} />
          </Group>
          <Text size="sm" c="dimmed" className={classes.wrap}>
            {facts.filter(Boolean).join(" · ")}
          </Text>
          {job.failure && (
            <Text size="sm" c="var(--mantine-color-error)" lineClamp={2}>
              {job.failure.message}
            </Text>
          )}
        </div>
        {job.status === JobStatus.PENDING && (
          <ActionIcon
            size="xl"
            radius="xl"
            variant="filled"
            loading={start.isPending}
            onClick={() => void act(start.mutateAsync({ jobId: job.id }))}
            aria-label={words.training.startJob(name)}
            title={words.training.start}
          >
            <IconPlayerPlayFilled size={20} aria-hidden />
          </ActionIcon>
        )}
        {job.status === JobStatus.QUEUED && job.queuePosition > 1 && (
          <ActionIcon
            size="lg"
            variant="default"
            loading={prioritize.isPending}
            onClick={() => void act(prioritize.mutateAsync({ jobId: job.id, priority: Math.min(1000, top + 1) }))}
            aria-label={words.training.first(name)}
            title={words.training.first(name)}
          >
            <IconArrowBarToUp size={18} aria-hidden />
          </ActionIcon>
        )}
        {progress && (
          <Text fw={600} className={classes.percent}>
            {format.percent(progressOf(job))}
          </Text>
        )}
      </Group>
      {progress && !hasEnded(job.status) && (
        <Progress mt="xs" value={progressOf(job) * 100} animated={isMoving(job)} aria-label={name} />
      )}
    </Paper>
  );
}
