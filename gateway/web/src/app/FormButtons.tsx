import { Alert, Button, Group } from "@mantine/core";
import type { ReactNode } from "react";
import { useSpeech } from "../i18n";

interface FormButtonsProps {
  /** What the server said that belongs to no field. */
  problem: string | null;
  /** The button that sends the form. */
  send: string;
  busy: boolean;
  onCancel: () => void;
  /** Other ways to send it, between the two. */
  children?: ReactNode;
}

/** How a form in a dialog ends. */
export function FormButtons({ problem, send, busy, onCancel, children }: FormButtonsProps) {
  const { words } = useSpeech();
  return (
    <>
      {problem && (
        <Alert color="red" role="alert">
          {problem}
        </Alert>
      )}
      <Group justify="flex-end" gap="xs">
        <Button variant="default" onClick={onCancel}>
          {words.common.cancel}
        </Button>
        {children}
        <Button type="submit" loading={busy}>
          {send}
        </Button>
      </Group>
    </>
  );
}
