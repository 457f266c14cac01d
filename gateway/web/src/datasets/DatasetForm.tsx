import { useMutation } from "@connectrpc/connect-query";
import { Modal, SegmentedControl, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { type FormEvent, useMemo, useState } from "react";
import { failureOf, remainder } from "../api/errors";
import { FormButtons } from "../app/FormButtons";
import { useFirstError } from "../app/useFirstError";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { type Dataset, DatasetType } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { newId } from "../lib/identity";

interface DatasetFormProps {
  /** The one to rename; without it a new one is made. */
  dataset?: Dataset;
  onClose: () => void;
  onSaved: (dataset: Dataset) => void;
}

/** Name, type and description of a new dataset, or the name and description of one that is there. */
export function DatasetForm({ dataset, onClose, onSaved }: DatasetFormProps) {
  const { words } = useSpeech();
  const [name, setName] = useState(dataset?.name ?? "");
  const [type, setType] = useState(dataset?.type ?? DatasetType.IMAGE);
  const [description, setDescription] = useState(dataset?.description ?? "");
  const [requestId] = useState(() => newId());
  const create = useMutation(CatalogService.method.createDataset);
  const update = useMutation(CatalogService.method.updateDataset);
  const error = create.error ?? update.error;
  const failure = useMemo(() => (error ? failureOf(error) : null), [error]);
  const form = useFirstError(failure);
  const prefix = dataset ? "dataset." : "";
  const fields = [`${prefix}name`, `${prefix}description`] as const;
  const rest = failure ? remainder(failure, fields) : "";
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    try {
      const answer = dataset
        ? await update.mutateAsync({
            datasetId: dataset.id,
            dataset: { name, description },
            updateMask: { paths: ["name", "description"] },
          })
        : await create.mutateAsync({ requestId, name, type, description });
      if (answer.dataset) onSaved(answer.dataset);
    } catch {
      // Shown from the mutation's own error.
    }
  };
  return (
    <Modal
      opened
      onClose={onClose}
      title={dataset ? words.datasets.edit : words.datasets.createNew}
      closeButtonProps={{ "aria-label": words.common.close }}
    >
      <form ref={form} onSubmit={(event) => void submit(event)} noValidate>
        <Stack>
          <TextInput
            label={words.common.name}
            placeholder={words.datasets.nameHint}
            required
            value={name}
            error={failure?.fields[fields[0]]}
            onChange={(event) => setName(event.currentTarget.value)}
            data-autofocus
          />
          {!dataset && (
            <div>
              <Text size="sm" fw={500} id="dataset-type" mb={4}>
                {words.common.type}
              </Text>
              <SegmentedControl
                fullWidth
                aria-labelledby="dataset-type"
                value={String(type)}
                onChange={(value) => setType(Number(value))}
                data={[
                  { value: String(DatasetType.IMAGE), label: words.datasets.typeImage },
                  { value: String(DatasetType.VIDEO), label: words.datasets.typeVideo },
                ]}
              />
            </div>
          )}
          <Textarea
            label={words.common.description}
            placeholder={words.datasets.descriptionHint}
            autosize
            minRows={2}
            value={description}
            error={failure?.fields[fields[1]]}
            onChange={(event) => setDescription(event.currentTarget.value)}
          />
          <FormButtons
            problem={rest}
            send={dataset ? words.common.save : words.datasets.create}
            busy={create.isPending || update.isPending}
            onCancel={onClose}
          />
        </Stack>
      </form>
    </Modal>
  );
}
