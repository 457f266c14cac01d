import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Anchor, Badge, Button, Paper, SimpleGrid, Skeleton, Stack, Text, Title } from "@mantine/core";
import { IconBrush, IconCloudUpload, IconPencil, IconSchool, IconTrash } from "@tabler/icons-react";
import { type ReactNode, useState } from "react";
import { Link, useLocation } from "wouter";
import { Failed } from "../api/Failed";
import { Confirm } from "../app/Confirm";
import { notify } from "../app/notify";
import { Page } from "../app/Page";
import { drawable } from "../drawing/choices";
import { pageOf } from "../drawing/draft";
import { History } from "../drawing/History";
import { rememberDraft } from "../drawing/session";
import { CatalogService, type GetModelLineageResponse } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { type Model, ModelType } from "../gen/atelier/catalog/v1/model_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { useSpeech } from "../i18n";
import { Export } from "./Export";
import { Memory } from "./Memory";
import { ModelForm } from "./ModelForm";
import { PushForm } from "./PushForm";
import { TrainingSamples } from "./TrainingSamples";
import classes from "./Models.module.css";

export default function ModelPage({ id }: { id: number }) {
  const { words } = useSpeech();
  const lineage = useQuery(CatalogService.method.getModelLineage, { modelId: id }, { retry: 1, refetchOnMount: "always" });
  if (lineage.error) {
    return (
      <Page title={words.models.title} back={{ to: "/models", label: words.models.back }}>
        <Failed error={lineage.error} retry={() => void lineage.refetch()} />
      </Page>
    );
  }
  const model = lineage.data?.model;
  if (!lineage.data || !model) return <Skeleton height={240} />;
  return <One model={model} lineage={lineage.data} refetch={() => void lineage.refetch()} />;
}

interface OneProps {
  model: Model;
  lineage: GetModelLineageResponse;
  refetch: () => void;
}

function One({ model, lineage, refetch }: OneProps) {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const [dialog, setDialog] = useState<"edit" | "push" | "delete" | null>(null);
  const remove = useMutation(CatalogService.method.deleteModel);
  const able = useQuery(GeneratorService.method.getGeneratorCapabilities, {}).data;
  const { bases, trained } = drawable([model], able?.families ?? [], able?.clipFamilies ?? []);
  const draws = bases.length + trained.length > 0;
  const trains = useQuery(TrainerService.method.getTrainerCapabilities, {}).data?.families.includes(model.family);
  return (
    <Page
      title={model.name}
      back={{ to: "/models", label: words.models.back }}
      badge={!model.isActive && <Badge className={classes.inactive}>{words.models.inactive}</Badge>}
      intro={model.description}
      actions={
        <>
          {draws && (
            <Button component={Link} href={`/text-to-image?model=${model.id}`} leftSection={<IconBrush size={16} aria-hidden />}>
              {words.models.draw}
            </Button>
          )}
          {trains && model.isActive && model.type === ModelType.BASE_MODEL && (
            <Button
              component={Link}
              href={`/training?model=${model.id}`}
              variant="light"
              leftSection={<IconSchool size={16} aria-hidden />}
            >
              {words.models.train}
            </Button>
          )}
          <Export model={model} />
          {model.weights.case === "stored" && (
            <Button
              variant="default"
              leftSection={<IconCloudUpload size={16} aria-hidden />}
              onClick={() => setDialog("push")}
            >
              {words.models.push}
            </Button>
          )}
          <Button variant="default" leftSection={<IconPencil size={16} aria-hidden />} onClick={() => setDialog("edit")}>
            {words.models.edit}
          </Button>
          <Button variant="default" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => setDialog("delete")}>
            {words.models.delete}
          </Button>
        </>
      }
    >
      <SimpleGrid cols={{ base: 1, md: 2 }}>
        <Paper withBorder p="md">
          <Facts model={model} />
          {draws && <Memory modelId={model.id} />}
        </Paper>
        <Paper withBorder p="md" component="section" aria-label={words.models.lineage}>
          <Lineage model={model} lineage={lineage} />
        </Paper>
      </SimpleGrid>
      {model.jobId && <TrainingSamples jobId={model.jobId} />}
      {able?.families.includes(model.family) && model.type !== ModelType.CONTROLNET && (
        <History
          title={words.models.drawn}
          empty={words.models.notDrawn}
          modelId={model.id}
          onUse={(draft) => {
            rememberDraft(draft);
            go(pageOf(draft));
          }}
        />
      )}
      {dialog === "push" && <PushForm model={model} onClose={() => setDialog(null)} />}
      {dialog === "edit" && (
        <ModelForm
          model={model}
          onClose={() => setDialog(null)}
          onSaved={() => {
            setDialog(null);
            refetch();
          }}
        />
      )}
      {dialog === "delete" && (
        <Confirm
          title={words.models.delete}
          text={words.models.deleteAsk(model.name)}
          yes={words.common.delete}
          onYes={async () => {
            await remove.mutateAsync({ modelId: model.id });
            notify(words, words.models.deleted(model.name));
            go("/models");
          }}
          onClose={() => setDialog(null)}
        />
      )}
    </Page>
  );
}

function Facts({ model }: { model: Model }) {
  const { words, format } = useSpeech();
  const rows: [string, ReactNode][] = [
    [words.common.type, words.models.types[model.type]],
    [words.models.family, words.models.families[model.family]],
    [words.models.resolution, model.nativeResolution ? `${model.nativeResolution} px` : ""],
    [words.models.triggerWords, model.triggerWords.join(", ")],
    [
      words.models.weights,
      model.weights.case === "hub" ? `${model.weights.value.repoId} (${words.models.hub})` : format.bytes(model.sizeBytes),
    ],
    [words.models.license, model.license],
    [words.models.digest, model.digest.slice(0, 16)],
    [words.common.created, format.date(model.createdAt)],
  ];
  return (
    <dl className={classes.facts}>
      {rows
        .filter(([, value]) => value)
        .map(([name, value]) => [<dt key={`${name}-name`}>{name}</dt>, <dd key={name}>{value}</dd>])}
    </dl>
  );
}

function link(to: string, text: string): ReactNode {
  return (
    <Anchor component={Link} href={to} fw={600}>
      {text}
    </Anchor>
  );
}

function step(key: string, kind: ReactNode, what: ReactNode, more?: ReactNode): ReactNode {
  return (
    <li key={key}>
      <Text size="xs" c="dimmed">
        {kind}
      </Text>
      {what}
      {more && <Text size="sm">{more}</Text>}
    </li>
  );
}

/** Base, dataset as it was, job, the model, and what was trained on it: in the order of time. */
function Lineage({ model, lineage }: { model: Model; lineage: GetModelLineageResponse }) {
  const { words, format } = useSpeech();
  const { ancestors, dataset, snapshot, children } = lineage;
  return (
    <Stack gap="sm">
      <div>
        <Title order={2} size="h4">
          {words.models.lineage}
        </Title>
        <Text size="sm" c="dimmed">
          {words.models.lineageHint}
        </Text>
      </div>
      <ol className={classes.lineage} data-testid="lineage">
        {ancestors
          .toReversed()
          .map((each) => step(`base-${each.id}`, words.models.types[each.type], link(`/models/${each.id}`, each.name)))}
        {snapshot &&
          step(
            "snapshot",
            words.training.dataset,
            dataset ? link(`/datasets/${dataset.id}`, dataset.name) : words.training.deletedDataset(snapshot.datasetId),
            words.models.snapshot(Number(snapshot.numItems), format.date(snapshot.createdAt)),
          )}
        {model.jobId && step("job", words.models.job, link(`/training/${model.jobId}`, model.jobId.slice(0, 8)))}
        {step("self", words.models.thisModel, <Text fw={600}>{model.name}</Text>)}
      </ol>
      <Title order={3} size="h5">
        {words.models.children}
      </Title>
      {children.length === 0 ? (
        <Text size="sm" c="dimmed">
          {words.models.noChildren}
        </Text>
      ) : (
        <ul className={classes.lineage}>
          {children.map((child) => step(`child-${child.id}`, words.models.types[child.type], link(`/models/${child.id}`, child.name)))}
        </ul>
      )}
    </Stack>
  );
}
