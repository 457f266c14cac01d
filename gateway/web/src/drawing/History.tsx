import { useInfiniteQuery, useQuery } from "@connectrpc/connect-query";
import { Group, Text, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { IconPinFilled } from "@tabler/icons-react";
import { keepPreviousData } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Failed } from "../api/Failed";
import { pictureUrl } from "../api/urls";
import { More } from "../app/More";
import { type Generation, GenerationStatus } from "../gen/atelier/generator/v1/generation_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useSpeech } from "../i18n";
import type { Draft } from "./draft";
import classes from "./Drawing.module.css";
import { EVERYTHING, type Filter, Filters, isEverything } from "./Filters";
import { isUnfinished, PastModal } from "./PastModal";
import { Shown } from "./Shown";
import { wordsOf } from "./told";

interface HistoryProps {
  title: string;
  empty: string;
  /** This model's pictures alone. */
  modelId?: number;
  /** Asked for again with each new one. */
  moment?: string;
  /** Draws with a picture's settings. */
  onUse: (draft: Draft) => void;
}

/** What was drawn before, newest first. */
export function History({ title, empty, modelId, moment, onUse }: HistoryProps) {
  const { words } = useSpeech();
  const [opened, setOpened] = useState<string | null>(null);
  const [filter, setFilter] = useState<Filter>(EVERYTHING);
  const [promptContains] = useDebouncedValue(filter.words.trim(), 300);
  const asked = {
    pageSize: 24,
    pageToken: "",
    modelId: modelId ?? (filter.modelId || undefined),
    status: filter.status,
    promptContains,
    isKept: filter.kept === "all" ? undefined : filter.kept === "kept",
  };
  const list = useInfiniteQuery(GeneratorService.method.listGenerations, asked, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    placeholderData: keepPreviousData,
    refetchOnMount: "always",
    refetchInterval: (query) =>
      query.state.data?.pages.some((page) => page.generations.some((each) => isUnfinished(each))) ? 1000 : 15_000,
  });
  const { refetch } = list;
  useEffect(() => {
    if (moment) void refetch();
  }, [moment, refetch]);
  const generations = list.data?.pages.flatMap((page) => page.generations) ?? [];
  const total = Number(list.data?.pages.at(-1)?.totalSize ?? 0n);
  const filtered = !isEverything(filter);
  const days = useQuery(GeneratorService.method.getGeneratorCapabilities, {}).data?.maxAgeDays ?? 0;
  return (
    <section aria-label={title}>
      <Group justify="space-between" mb="sm" align="baseline">
        <Title order={2} size="h4">
          {title}
        </Title>
        {list.isSuccess && (total > 0 || filtered) && (
          <Text size="sm" c="dimmed" role="status">
            {words.gallery.found(total)}
            {days > 0 && ` · ${words.gallery.leaves(days)}`}
          </Text>
        )}
      </Group>
      {(generations.length > 0 || filtered) && <Filters filter={filter} onChange={setFilter} withModel={modelId === undefined} />}
      {list.error && <Failed error={list.error} retry={() => void list.refetch()} />}
      {list.isSuccess && generations.length === 0 && <Text c="dimmed">{filtered ? words.gallery.noneFound : empty}</Text>}
      <ul className={classes.history} data-testid="history">
        {generations.map((generation) => (
          <li key={generation.id}>
            <Past generation={generation} onOpen={() => setOpened(generation.id)} />
          </li>
        ))}
      </ul>
      <More list={list} mt="md" />
      {opened && (
        <PastModal
          key={opened}
          id={opened}
          known={generations.find((each) => each.id === opened)}
          onOpen={setOpened}
          onClose={() => setOpened(null)}
          onChanged={() => void list.refetch()}
          onUse={(draft) => {
            setOpened(null);
            onUse(draft);
          }}
        />
      )}
    </section>
  );
}

function Past({ generation, onOpen }: { generation: Generation; onOpen: () => void }) {
  const { words } = useSpeech();
  // A grid is known by its sheet.
  const first = generation.images.find((image) => image.isSheet) ?? generation.images[0];
  const pictures = generation.images.filter((image) => !image.isSheet).length;
  const prompt = wordsOf(generation.settings);
  return (
    <button
      type="button"
      className={classes.past}
      onClick={onOpen}
      data-status={GenerationStatus[generation.status]}
      data-kept={generation.isKept || undefined}
    >
      {first && generation.status === GenerationStatus.COMPLETED ? (
        <Shown
          url={pictureUrl(generation.id, first.index)}
          contentType={first.contentType}
          alt={first.isSheet ? words.grid.sheetAlt(pictures) : words.drawing.pictureAlt(prompt, first.seed.toString())}
          lazy
          className={classes.cover}
        />
      ) : (
        <span className={classes.cover}>{words.drawing.status[generation.status]}</span>
      )}
      {generation.isKept && (
        <span className={classes.kept}>
          <IconPinFilled size={14} aria-label={words.gallery.isKept} role="img" />
        </span>
      )}
      <Text size="xs" truncate mt={4}>
        {prompt || generation.modelName}
      </Text>
      <Text size="xs" truncate c="dimmed">
        {generation.modelName}
        {pictures > 1 && ` · ${words.common.images(pictures)}`}
      </Text>
    </button>
  );
}
