import {
  ActionIcon,
  AppShell,
  Burger,
  Group,
  NavLink,
  SegmentedControl,
  Text,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure, useNetwork } from "@mantine/hooks";
import { IconApi, IconBrush, IconCube, IconMoon, IconPhoto, IconSchool, IconSun } from "@tabler/icons-react";
import type { ReactNode } from "react";
import { Link, useLocation } from "wouter";
import { useSpeech } from "../i18n";
import type { Language } from "../i18n/language";
import classes from "./Shell.module.css";

export function Shell({ children }: { children: ReactNode }) {
  const { words, language, speak } = useSpeech();
  const [opened, menu] = useDisclosure();
  const [path] = useLocation();
  const { online } = useNetwork();
  const pages = [
    { to: "/datasets", label: words.datasets.title, Icon: IconPhoto },
    { to: "/training", label: words.training.title, Icon: IconSchool },
    { to: "/text-to-image", label: words.drawing.title, Icon: IconBrush },
    { to: "/models", label: words.models.title, Icon: IconCube },
  ];
  return (
    <AppShell
      header={{ height: 56 }}
      navbar={{ width: 220, breakpoint: "sm", collapsed: { mobile: !opened } }}
      padding={{ base: "md", md: "xl" }}
    >
      <a href="#content" className={classes.skip}>
        {words.app.skip}
      </a>
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="sm" wrap="nowrap">
            <Burger
              opened={opened}
              onClick={menu.toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label={words.app.menu}
              aria-expanded={opened}
            />
            <Link href="/datasets" className={classes.brand}>
              <img src="/icon.svg" alt="" width={28} height={28} />
              <Text fw={700} size="lg" component="span">
                Atelier
              </Text>
            </Link>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <SegmentedControl
              size="xs"
              aria-label={words.app.language}
              value={language}
              onChange={(value) => speak(value as Language)}
              data={[
                { value: "fr", label: "FR" },
                { value: "en", label: "EN" },
              ]}
            />
            <SchemeButton />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" aria-label={words.app.navigation}>
        {pages.map(({ to, label, Icon }) => (
          <NavLink
            key={to}
            component={Link}
            href={to}
            label={label}
            leftSection={<Icon size={18} aria-hidden />}
            active={path.startsWith(to)}
            aria-current={path.startsWith(to) ? "page" : undefined}
            className={classes.link}
            onClick={menu.close}
          />
        ))}
        {/* A page of its own, not one of the app's. */}
        <NavLink
          mt="auto"
          href="/api/docs"
          label={words.app.api}
          leftSection={<IconApi size={18} aria-hidden />}
          className={classes.link}
        />
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1} className={classes.main}>
        {!online && (
          <div className={classes.offline} role="status">
            {words.app.offline}
          </div>
        )}
        {children}
      </AppShell.Main>
    </AppShell>
  );
}

function SchemeButton() {
  const { words } = useSpeech();
  const { setColorScheme } = useMantineColorScheme();
  const dark = useComputedColorScheme("light", { getInitialValueInEffect: false }) === "dark";
  return (
    <ActionIcon
      variant="default"
      size="lg"
      aria-label={dark ? words.app.toLight : words.app.toDark}
      onClick={() => setColorScheme(dark ? "light" : "dark")}
    >
      {dark ? <IconSun size={18} aria-hidden /> : <IconMoon size={18} aria-hidden />}
    </ActionIcon>
  );
}
