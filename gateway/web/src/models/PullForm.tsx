import { useMutation } from "@connectrpc/connect-query";
import { Modal, PasswordInput, Select, Stack, TagsInput, TextInput } from "@mantine/core";
import { type FormEvent, useMemo, useState } from "react";
import { failureOf, remainder } from "../api/errors";
import { FormButtons } from "../app/FormButtons";
import { useFirstError } from "../app/useFirstError";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Model } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";
import { newId } from "../lib/identity";

const FIELDS = {
  repository: "repo_id",
  file: "filename",
  name: "name",
  base: "base_model_id",
  token: "token",
  words: "trigger_words",
};

interface PullFormProps {
  bases: readonly Model[];
  onClose: () => void;
  onPulled: (modelId: number) => void;
}

/** Takes a LoRA or a checkpoint out of a repository of a hub. */
export function PullForm({ bases, onClose, onPulled }: PullFormProps) {
  const { words } = useSpeech();
  const [requestId] = useState(() => newId());
  const [repoId, setRepository] = useState("");
  const [filename, setFile] = useState("");
  const [name, setName] = useState("");
  const [base, setBase] = useState(String(bases[0]?.id ?? ""));
  const [triggerWords, setTriggerWords] = useState<string[]>([]);
  const [token, setToken] = useState("");
  const pull = useMutation(CatalogService.method.pullModel);
  const failure = useMemo(() => (pull.error ? failureOf(pull.error) : null), [pull.error]);
  const form = useFirstError(failure);
  const send = async (event: FormEvent) => {
    event.preventDefault();
    try {
      const wanted = { requestId, repoId, filename, name, baseModelId: Number(base), triggerWords, token };
      const { model } = await pull.mutateAsync(wanted);
      if (model) onPulled(model.id);
    } catch {
      // Shown from the mutation's own error.
    }
  };
  return (
    <Modal opened onClose={onClose} title={words.models.pull} closeButtonProps={{ "aria-label": words.common.close }}>
      <form ref={form} onSubmit={(event) => void send(event)} noValidate>
        <Stack>
          <TextInput
            label={words.models.repository}
            placeholder="someone/ink-style"
            required
            value={repoId}
            error={failure?.fields[FIELDS.repository]}
            onChange={(event) => setRepository(event.currentTarget.value)}
            data-autofocus
          />
          <TextInput
            label={words.models.file}
            description={words.models.fileHint}
            value={filename}
            error={failure?.fields[FIELDS.file]}
            onChange={(event) => setFile(event.currentTarget.value)}
          />
          <Select
            label={words.models.base}
            description={words.models.pullBaseHint}
            searchable
            allowDeselect={false}
            value={base}
            onChange={(value) => setBase(value ?? "")}
            data={bases.map((model) => ({ value: String(model.id), label: model.name }))}
            error={failure?.fields[FIELDS.base]}
          />
          <TextInput
            label={words.common.name}
            description={words.models.pullNameHint}
            value={name}
            error={failure?.fields[FIELDS.name]}
            onChange={(event) => setName(event.currentTarget.value)}
          />
          <TagsInput
            label={words.models.triggerWords}
            placeholder={words.models.triggerWordsHint}
            value={triggerWords}
            onChange={setTriggerWords}
            error={failure?.fields[FIELDS.words]}
          />
          <PasswordInput
            label={words.models.hubToken}
            description={words.models.hubTokenHint}
            autoComplete="off"
            value={token}
            error={failure?.fields[FIELDS.token]}
            onChange={(event) => setToken(event.currentTarget.value)}
          />
          <FormButtons
            problem={failure ? remainder(failure, Object.values(FIELDS)) : null}
            send={words.models.pullSend}
            busy={pull.isPending}
            onCancel={onClose}
          />
        </Stack>
      </form>
    </Modal>
  );
}
