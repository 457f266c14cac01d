import { Anchor, Group, Stack, Text, Title } from "@mantine/core";
import { IconArrowLeft } from "@tabler/icons-react";
import { type ReactNode, useEffect } from "react";
import { Link } from "wouter";

interface PageProps {
  title: string;
  intro?: ReactNode;
  back?: { to: string; label: string };
  /** Beside the title. */
  badge?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
}

/** A page's heading, its buttons and what is under them. */
export function Page({ title, intro, back, badge, actions, children }: PageProps) {
  useEffect(() => {
    document.title = `${title} · Atelier`;
  }, [title]);
  return (
    <Stack gap="lg">
      <Stack gap={4}>
        {back && (
          <Anchor component={Link} href={back.to} size="sm" w="fit-content">
            <Group gap={4}>
              <IconArrowLeft size={16} aria-hidden />
              {back.label}
            </Group>
          </Anchor>
        )}
        <Group justify="space-between" align="flex-start" gap="sm">
          <Stack gap={4} miw={0} flex="1 1 280px">
            <Group gap="sm">
              <Title order={1} size="h2" style={{ overflowWrap: "anywhere" }}>
                {title}
              </Title>
              {badge}
            </Group>
            {intro && <Text c="dimmed">{intro}</Text>}
          </Stack>
          {actions && <Group gap="xs">{actions}</Group>}
        </Group>
      </Stack>
      {children}
    </Stack>
  );
}

/** Where there is nothing yet: what it will be, and what to do next. */
export function Empty({ title, hint, action }: { title: string; hint?: string; action?: ReactNode }) {
  return (
    <Stack align="center" gap="xs" py={48} px="md" ta="center">
      <Text fw={600} size="lg">
        {title}
      </Text>
      {hint && <Text c="dimmed">{hint}</Text>}
      {action}
    </Stack>
  );
}
