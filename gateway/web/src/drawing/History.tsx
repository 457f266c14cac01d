import { useInfiniteQuery, useMutation } from "@connectrpc/connect-query";
import { Alert, Button, Center, Group, Modal, Stack, Text, Title } from "@mantine/core";
import { IconTrash } from "@tabler/icons-react";
import { useEffect, useState } from "react";
import { Failed, notifyFailure } from "../api/Failed";
import { pictureUrl } from "../api/transport";
import { Confirm } from "../app/Confirm";
import { type Generation, GenerationStatus } from "../gen/atelier/generator/v1/generation_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useSpeech } from "../i18n";
import type { Draft } from "./draft";
import classes from "./Drawing.module.css";
import { PictureButtons, SettingsList } from "./Pictures";

const { listGenerations, deleteGeneration, cancelGeneration } = GeneratorService.method;

function isUnfinished({ status }: Generation): boolean {
  return status === GenerationStatus.QUEUED || status === GenerationStatus.RUNNING;
}

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
  const list = useInfiniteQuery(listGenerations, { pageSize: 24, pageToken: "", modelId }, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchOnMount: "always",
    refetchInterval: (query) =>
      query.state.data?.pages.some((page) => page.generations.some((each) => isUnfinished(each))) ? 1000 : 15_000,
  });
  const { refetch } = list;
  useEffect(() => {
    if (moment) void refetch();
  }, [moment, refetch]);
  const generations = list.data?.pages.flatMap((page) => page.generations) ?? [];
  const shown = generations.find((each) => each.id === opened);
  return (
    <section aria-label={title}>
      <Title order={2} size="h4" mb="sm">
        {title}
      </Title>
      {list.error && <Failed error={list.error} retry={() => void list.refetch()} />}
      {list.isSuccess && generations.length === 0 && <Text c="dimmed">{empty}</Text>}
      <ul className={classes.history} data-testid="history">
        {generations.map((generation) => (
          <li key={generation.id}>
            <Past generation={generation} onOpen={() => setOpened(generation.id)} />
          </li>
        ))}
      </ul>
      {list.hasNextPage && (
        <Center mt="md">
          <Button variant="default" loading={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
            {words.common.more}
          </Button>
        </Center>
      )}
      {shown && (
        <PastModal
          generation={shown}
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
  const [first] = generation.images;
  const prompt = generation.settings?.prompt ?? "";
  return (
    <button type="button" className={classes.past} onClick={onOpen} data-status={GenerationStatus[generation.status]}>
      {first && generation.status === GenerationStatus.COMPLETED ? (
        <img
          src={pictureUrl(generation.id, first.index)}
          alt={words.drawing.pictureAlt(prompt, first.seed.toString())}
          loading="lazy"
          className={classes.cover}
        />
      ) : (
        <span className={classes.cover}>{words.drawing.status[generation.status]}</span>
      )}
      <Text size="xs" truncate mt={4}>
        {prompt || generation.modelName}
      </Text>
      <Text size="xs" truncate c="dimmed">
        {generation.modelName}
        {generation.images.length > 1 && ` · ${words.common.images(generation.images.length)}`}
      </Text>
    </button>
  );
}

interface PastModalProps {
  generation: Generation;
  onClose: () => void;
  onChanged: () => void;
  onUse: (draft: Draft) => void;
}

function PastModal({ generation, onClose, onChanged, onUse }: PastModalProps) {
  const { words } = useSpeech();
  const [asking, setAsking] = useState(false);
  const remove = useMutation(deleteGeneration);
  const cancel = useMutation(cancelGeneration);
  const prompt = generation.settings?.prompt ?? "";
  const unfinished = isUnfinished(generation);
  return (
    <Modal
      opened
      onClose={onClose}
      size="xl"
      title={prompt || generation.modelName}
      closeButtonProps={{ "aria-label": words.common.close }}
    >
      <Stack>
        {generation.failure && (
          <Alert color="red" title={words.drawing.failed}>
            {generation.failure.message}
          </Alert>
        )}
        {generation.status === GenerationStatus.CANCELLED && <Alert color="gray">{words.drawing.cancelled}</Alert>}
        {generation.status === GenerationStatus.COMPLETED && (
          <ul className={classes.tiles}>
            {generation.images.map((image) => (
              <li key={image.index} className={classes.tile}>
                <img
                  src={pictureUrl(generation.id, image.index)}
                  alt={words.drawing.pictureAlt(prompt, image.seed.toString())}
                  width={image.width}
                  height={image.height}
                  style={{ height: "auto" }}
                  className={classes.picture}
                />
                <PictureButtons generation={generation} image={image} onUse={onUse} />
              </li>
            ))}
          </ul>
        )}
        <SettingsList generation={generation} onUse={onUse} />
        <Group justify="flex-end">
          {unfinished ? (
            <Button
              variant="default"
              loading={cancel.isPending}
              onClick={() =>
                cancel.mutateAsync({ generationId: generation.id }).then(onChanged, (error: unknown) => notifyFailure(error, words))
              }
            >
              {words.drawing.stop}
            </Button>
          ) : (
            <Button
              variant="subtle"
              color="red"
              leftSection={<IconTrash size={16} aria-hidden />}
              onClick={() => setAsking(true)}
            >
              {words.drawing.deleteOne}
            </Button>
          )}
        </Group>
      </Stack>
      {asking && (
        <Confirm
          title={words.drawing.deleteAsk}
          yes={words.common.delete}
          onYes={async () => {
            await remove.mutateAsync({ generationId: generation.id });
            onChanged();
            onClose();
          }}
          onClose={() => setAsking(false)}
        />
      )}
    </Modal>
  );
}
