import { useMutation } from "@connectrpc/connect-query";
import { Modal, Stack, Switch, TagsInput, Textarea, TextInput } from "@mantine/core";
import { type FormEvent, useMemo, useState } from "react";
import { failureOf, remainder } from "../api/errors";
import { FormButtons } from "../app/FormButtons";
import { useFirstError } from "../app/useFirstError";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Model } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";

const FIELDS = { name: "model.name", description: "model.description", words: "model.trigger_words" };

/** Renames, describes, activates or deactivates a model. */
export function ModelForm({ model, onClose, onSaved }: { model: Model; onClose: () => void; onSaved: () => void }) {
  const { words } = useSpeech();
  const [name, setName] = useState(model.name);
  const [description, setDescription] = useState(model.description);
  const [isActive, setActive] = useState(model.isActive);
  const [triggerWords, setTriggerWords] = useState(model.triggerWords);
  const update = useMutation(CatalogService.method.updateModel);
  const failure = useMemo(() => (update.error ? failureOf(update.error) : null), [update.error]);
  const form = useFirstError(failure);
  const rest = failure ? remainder(failure, Object.values(FIELDS)) : "";
  const save = async (event: FormEvent) => {
    event.preventDefault();
    try {
      await update.mutateAsync({
        modelId: model.id,
        model: { name, description, isActive, triggerWords },
        updateMask: { paths: ["name", "description", "is_active", "trigger_words"] },
      });
      onSaved();
    } catch {
      // Shown from the mutation's own error.
    }
  };
  return (
    <Modal opened onClose={onClose} title={words.models.edit} closeButtonProps={{ "aria-label": words.common.close }}>
      <form ref={form} onSubmit={(event) => void save(event)} noValidate>
        <Stack>
          <TextInput
            label={words.common.name}
            required
            value={name}
            error={failure?.fields[FIELDS.name]}
            onChange={(event) => setName(event.currentTarget.value)}
            data-autofocus
          />
          <Textarea
            label={words.common.description}
            autosize
            minRows={2}
            value={description}
            error={failure?.fields[FIELDS.description]}
            onChange={(event) => setDescription(event.currentTarget.value)}
          />
          <TagsInput
            label={words.models.triggerWords}
            placeholder={words.models.triggerWordsHint}
            value={triggerWords}
            onChange={setTriggerWords}
            error={failure?.fields[FIELDS.words]}
          />
          <Switch
            label={words.models.active}
            description={words.models.activeHint}
            checked={isActive}
            onChange={(event) => setActive(event.currentTarget.checked)}
          />
          <FormButtons problem={rest} send={words.common.save} busy={update.isPending} onCancel={onClose} />
        </Stack>
      </form>
    </Modal>
  );
}
