import { Paper, Stack, Text } from "@mantine/core";
import type { ReactNode } from "react";
import { useSpeech } from "../i18n";

interface ResultProps {
  /** Until there is something. */
  empty: string;
  hint?: string;
  /** What is drawn. */
  children?: ReactNode;
}

/** The place beside a form where what it asked for appears. */
export function Result({ empty, hint, children }: ResultProps) {
  const { words } = useSpeech();
  return (
    <Paper withBorder p="md" component="section" aria-label={words.drawing.result} mih={260}>
      {children || (
        <Stack align="center" justify="center" mih={220} gap={4} ta="center">
          <Text fw={600}>{empty}</Text>
          {hint && (
            <Text c="dimmed" size="sm">
              {hint}
            </Text>
          )}
        </Stack>
      )}
    </Paper>
  );
}
