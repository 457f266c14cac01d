import { Alert, Button, Group } from "@mantine/core";
import { notify } from "../app/notify";
import type { Words } from "../i18n/en";
import { useSpeech } from "../i18n";
import { explain } from "./errors";

/** What went wrong, in the place where it did. */
export function Failed({ error, retry }: { error: unknown; retry?: () => void }) {
  const { words } = useSpeech();
  return (
    <Alert color="red" role="alert" variant="light">
      <Group justify="space-between" wrap="wrap">
        <span>{explain(error, words)}</span>
        {retry && (
          <Button size="xs" variant="default" onClick={retry}>
            {words.common.retry}
          </Button>
        )}
      </Group>
    </Alert>
  );
}

/** For what failed without a place of its own on the page. */
export function notifyFailure(error: unknown, words: Words): void {
  notify(words, explain(error, words), "red");
}
