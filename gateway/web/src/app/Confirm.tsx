import { Button, Group, Modal, Stack, Text } from "@mantine/core";
import { type ReactNode, useState } from "react";
import { Failed } from "../api/Failed";
import { useSpeech } from "../i18n";

interface ConfirmProps {
  title: string;
  text?: ReactNode;
  yes: string;
  no?: string;
  onYes: () => Promise<void> | void;
  onClose: () => void;
}

/** Asks before something is gone for good, and says when it failed. */
export function Confirm({ title, text, yes, no, onYes, onClose }: ConfirmProps) {
  const { words } = useSpeech();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = async () => {
    setBusy(true);
    try {
      await onYes();
      onClose();
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Modal opened onClose={onClose} title={title} centered closeButtonProps={{ "aria-label": words.common.close }}>
      <Stack>
        {text && <Text>{text}</Text>}
        {error !== null && <Failed error={error} />}
        <Group justify="flex-end" gap="xs">
          <Button variant="default" onClick={onClose} data-autofocus>
            {no ?? words.common.cancel}
          </Button>
          <Button color="red" loading={busy} onClick={() => void run()}>
            {yes}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
