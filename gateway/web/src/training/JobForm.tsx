import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Accordion, Alert, Anchor, Button, Modal, Radio, Select, SimpleGrid, Skeleton, Stack, TextInput } from "@mantine/core";
import { type FormEvent, useMemo, useState } from "react";
import { Link } from "wouter";
import { failureOf, isTransient, remainder } from "../api/errors";
import { Failed } from "../api/Failed";
import { FormButtons } from "../app/FormButtons";
import { Empty } from "../app/Page";
import { useFirstError } from "../app/useFirstError";
import { type Dataset, DatasetType } from "../gen/atelier/catalog/v1/dataset_pb";
import { type Model, ModelCategory, ModelType } from "../gen/atelier/catalog/v1/model_pb";
import { type GetTrainerCapabilitiesResponse, TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import type { TrainingJob } from "../gen/atelier/trainer/v1/training_pb";
import { useSpeech } from "../i18n";
import { newId } from "../lib/identity";
import { AdvancedFields, DreamBoothFields } from "./AdvancedFields";
import { type Draft, draftOf, estimateOf, FIELDS, requestOf } from "./draft";
import { Estimate } from "./Estimate";
import { useDatasets, useModels } from "./names";
import { TECHNIQUES, TechniqueFields, VALIDATION, ValidationFields } from "./TechniqueFields";
import { VIDEO, VideoFields } from "./VideoFields";

interface JobFormProps {
  datasetId?: number;
  baseModelId?: number;
  onClose: () => void;
  onCreated: (job: TrainingJob) => void;
}

/** New Training Job. Waits for what can be chosen, and says what is missing where nothing can. */
export function JobForm({ datasetId, baseModelId, onClose, onCreated }: JobFormProps) {
  const { words } = useSpeech();
  const capabilities = useQuery(TrainerService.method.getTrainerCapabilities, {});
  const datasets = useDatasets();
  const models = useModels();
  const able = capabilities.data;
  const bases = models.models.filter(
    (model) => model.type === ModelType.BASE_MODEL && model.isActive && able?.families.includes(model.family),
  );
  const error = capabilities.error ?? datasets.error ?? models.error;
  return (
    <Modal
      opened
      onClose={onClose}
      size="lg"
      title={words.training.create}
      closeButtonProps={{ "aria-label": words.common.close }}
    >
      {error ? (
        <Failed error={error} retry={() => void capabilities.refetch()} />
      ) : !able || !datasets.isSuccess || !models.isSuccess ? (
        <Skeleton height={240} />
      ) : datasets.datasets.length === 0 ? (
        <Empty
          title={words.datasets.emptyTitle}
          hint={words.training.needDataset}
          action={
            <Button component={Link} href="/datasets">
              {words.training.toDatasets}
            </Button>
          }
        />
      ) : bases.length === 0 ? (
        <Empty title={words.training.noModels} hint={words.training.noModelsHint} />
      ) : (
        <Fields
          able={able}
          datasets={datasets.datasets}
          bases={bases}
          datasetId={datasetId}
          baseModelId={baseModelId}
          onClose={onClose}
          onCreated={onCreated}
        />
      )}
    </Modal>
  );
}

interface FieldsProps extends JobFormProps {
  able: GetTrainerCapabilitiesResponse;
  datasets: readonly Dataset[];
  bases: readonly Model[];
}

/** A model that draws clips learns from clips, and the others from pictures. */
function fits(dataset: Dataset, base: Model): boolean {
  return (dataset.type === DatasetType.VIDEO) === (base.category === ModelCategory.VIDEO);
}

/** The id of the first dataset that a model can learn from; 0 where there is none. */
function firstFor(base: Model, datasets: readonly Dataset[]): number {
  return datasets.find((each) => each.numItems > 0n && fits(each, base))?.id ?? 0;
}

function Fields({ able, datasets, bases, datasetId, baseModelId, onClose, onCreated }: FieldsProps) {
  const { words } = useSpeech();
  // A model whose weights are here before one that is gigabytes to download.
  const [draft, setDraft] = useState<Draft>(() => {
    const asked = datasets.find((each) => each.id === datasetId);
    const fitting = asked ? bases.filter((model) => fits(asked, model)) : bases;
    const base = bases.find((model) => model.id === baseModelId) ?? fitting.find((model) => model.weights.case === "stored") ?? fitting[0] ?? bases[0];
    return draftOf(able.defaults, asked?.id ?? (base ? firstFor(base, datasets) : 0), base?.id ?? 0);
  });
  const base = bases.find((model) => model.id === draft.baseModelId);
  const video = base?.category === ModelCategory.VIDEO;
  const [requestId, setRequestId] = useState(() => newId());
  const create = useMutation(TrainerService.method.createTrainingJob);
  const estimate = useMutation(TrainerService.method.estimateTrainingJob);
  const error = create.error ?? estimate.error;
  const failure = useMemo(() => (error ? failureOf(error) : null), [error]);
  const form = useFirstError(failure);
  const rest = error && isTransient(error) ? words.errors.unreachable : failure && remainder(failure, Object.values(FIELDS));
  const problem = (name: keyof Draft) => failure?.fields[FIELDS[name]];
  const set = <Name extends keyof Draft>(name: Name, value: Draft[Name]) => {
    setDraft((before) => ({ ...before, [name]: value }));
    setRequestId(newId()); // another request from here on
    if (estimate.data) estimate.reset(); // it was of another job
  };
  const chosen = datasets.find((each) => each.id === draft.datasetId);
  const submit = async (start: boolean) => {
    estimate.reset();
    try {
      const { job } = await create.mutateAsync(requestOf(draft, requestId, start, video));
      if (job) onCreated(job);
    } catch {
      // Shown from the mutation's own error.
    }
  };
  const fields = { draft, set, problem };
  const [open, setOpen] = useState<string[]>([]);
  const troubled = (Object.keys(FIELDS) as (keyof Draft)[]).filter((name) => FIELDS[name].startsWith("config.") && !VIDEO.includes(name) && problem(name));
  const sections = troubled.map((name) => (TECHNIQUES.includes(name) ? "techniques" : VALIDATION.includes(name) ? "validation" : "advanced"));
  return (
    <form
      ref={form}
      noValidate
      onSubmit={(event: FormEvent) => {
        event.preventDefault();
        void submit(false);
      }}
    >
      <Stack>
        <SimpleGrid cols={{ base: 1, xs: 2 }}>
          <Select
            label={words.training.dataset}
            searchable
            allowDeselect={false}
            value={draft.datasetId ? String(draft.datasetId) : null}
            onChange={(value) => set("datasetId", Number(value))}
            data={datasets
              .filter((each) => each.id === draft.datasetId || !base || fits(each, base))
              .map((each) => ({
                value: String(each.id),
                label: `${each.name} (${words.common.images(Number(each.numItems))})`,
              }))}
            error={problem("datasetId")}
          />
          <Select
            label={words.training.baseModel}
            searchable
            allowDeselect={false}
            value={String(draft.baseModelId)}
            onChange={(value) => {
              set("baseModelId", Number(value));
              const next = bases.find((model) => model.id === Number(value));
              if (next && chosen && !fits(chosen, next)) set("datasetId", firstFor(next, datasets));
            }}
            data={bases.map((model) => ({ value: String(model.id), label: model.name }))}
            error={problem("baseModelId")}
          />
        </SimpleGrid>
        {chosen && chosen.numItems === 0n && (
          <Alert color="yellow">
            {words.training.datasetEmpty}{" "}
            <Anchor component={Link} href={`/datasets/${chosen.id}`} underline="always">
              {chosen.name}
            </Anchor>
          </Alert>
        )}
        <Radio.Group
          label={words.training.method}
          value={String(draft.method)}
          onChange={(value) => set("method", Number(value))}
          error={problem("method")}
        >
          <SimpleGrid cols={{ base: 1, xs: 3 }} mt={4}>
            {able.methods.map((method) => (
              <Radio
                key={method}
                value={String(method)}
                label={words.training.methods[method]}
                description={words.training.methodHints[method]}
              />
            ))}
          </SimpleGrid>
        </Radio.Group>
        <TextInput
          label={words.training.outputName}
          description={words.training.outputNameHint}
          value={draft.outputName}
          error={problem("outputName")}
          onChange={(event) => set("outputName", event.currentTarget.value)}
        />
        <DreamBoothFields {...fields} datasets={datasets.filter((each) => each.numItems > 0n && each.id !== draft.datasetId)} />
        {video && <VideoFields {...fields} />}
        <Accordion
          variant="contained"
          multiple
          value={[...open, ...sections]}
          onChange={setOpen}
        >
          <Accordion.Item value="advanced">
            <Accordion.Control>{words.training.advanced}</Accordion.Control>
            <Accordion.Panel>
              <AdvancedFields {...fields} video={video} />
            </Accordion.Panel>
          </Accordion.Item>
          <Accordion.Item value="techniques">
            <Accordion.Control>{words.training.techniques}</Accordion.Control>
            <Accordion.Panel>
              <TechniqueFields {...fields} />
            </Accordion.Panel>
          </Accordion.Item>
          <Accordion.Item value="validation">
            <Accordion.Control>{words.training.validation}</Accordion.Control>
            <Accordion.Panel>
              <ValidationFields {...fields} />
            </Accordion.Panel>
          </Accordion.Item>
        </Accordion>
        {estimate.data && <Estimate found={estimate.data} />}
        <FormButtons problem={rest} send={words.training.createJob} busy={create.isPending} onCancel={onClose}>
          <Button
            variant="default"
            loading={estimate.isPending}
            onClick={() => {
              create.reset();
              estimate.mutate(estimateOf(draft, video));
            }}
          >
            {words.training.estimate}
          </Button>
          <Button variant="light" loading={create.isPending} onClick={() => void submit(true)}>
            {words.training.createAndStart}
          </Button>
        </FormButtons>
      </Stack>
    </form>
  );
}
