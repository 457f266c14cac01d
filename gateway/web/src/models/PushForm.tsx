import { useMutation } from "@connectrpc/connect-query";
import { Anchor, Modal, PasswordInput, Stack, Switch, Text, TextInput } from "@mantine/core";
import { type FormEvent, useMemo, useState } from "react";
import { failureOf, remainder } from "../api/errors";
import { FormButtons } from "../app/FormButtons";
import { useFirstError } from "../app/useFirstError";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Model } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";

const FIELDS = { repository: "repo_id", token: "token" };

/** Puts a model with its card into a repository of a hub. */
export function PushForm({ model, onClose }: { model: Model; onClose: () => void }) {
  const { words } = useSpeech();
  const [repoId, setRepository] = useState("");
  const [token, setToken] = useState("");
  const [isPrivate, setPrivate] = useState(true);
  const push = useMutation(CatalogService.method.pushModel);
  const failure = useMemo(() => (push.error ? failureOf(push.error) : null), [push.error]);
  const form = useFirstError(failure);
  const send = async (event: FormEvent) => {
    event.preventDefault();
    try {
      await push.mutateAsync({ modelId: model.id, repoId, token, private: isPrivate });
    } catch {
      // Shown from the mutation's own error.
    }
  };
  return (
    <Modal opened onClose={onClose} title={words.models.push} closeButtonProps={{ "aria-label": words.common.close }}>
      {push.data ? (
        <Stack role="status">
          <Text>{words.models.pushed(model.name)}</Text>
          <Anchor href={push.data.url} target="_blank" rel="noreferrer" style={{ overflowWrap: "anywhere" }}>
            {push.data.url}
          </Anchor>
        </Stack>
      ) : (
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
            <PasswordInput
              label={words.models.hubToken}
              description={words.models.hubTokenHint}
              autoComplete="off"
              value={token}
              error={failure?.fields[FIELDS.token]}
              onChange={(event) => setToken(event.currentTarget.value)}
            />
            <Switch
              label={words.models.private}
              description={words.models.privateHint}
              checked={isPrivate}
              onChange={(event) => setPrivate(event.currentTarget.checked)}
            />
            <FormButtons
              problem={failure ? remainder(failure, Object.values(FIELDS)) : null}
              send={words.models.pushSend}
              busy={push.isPending}
              onCancel={onClose}
            />
          </Stack>
        </form>
      )}
    </Modal>
  );
}
