import { Code, createClient } from "@connectrpc/connect";
import { createConnectQueryKey, useMutation, useQuery } from "@connectrpc/connect-query";
import { Button, Group, Menu, Skeleton, Text, Title } from "@mantine/core";
import { IconDots, IconPencil, IconRefresh, IconSchool, IconTextCaption, IconTrash, IconZoomCheck } from "@tabler/icons-react";
import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useState } from "react";
import { Link, useLocation } from "wouter";
import { failureOf } from "../api/errors";
import { Failed, notifyFailure } from "../api/Failed";
import { transport } from "../api/transport";
import { Confirm } from "../app/Confirm";
import { notify } from "../app/notify";
import { Empty, Page } from "../app/Page";
import { CatalogService, type RefreshDatasetResponse } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { DatasetType, type Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { useSpeech } from "../i18n";
import { each } from "../lib/retry";
import { BulkCaptions } from "./BulkCaptions";
import { Captioning } from "./Captioning";
import { Damage } from "./Damage";
import { DatasetForm } from "./DatasetForm";
import { ImageGrid } from "./ImageGrid";
import { ImageViewer } from "./ImageViewer";
import { Inspection } from "./Inspection";
import { UploadPanel } from "./UploadPanel";
import { useImages } from "./useImages";

const catalog = createClient(CatalogService, transport);
const { getDataset, refreshDataset } = CatalogService.method;

type Dialog = "edit" | "delete" | "force" | "bulk" | "delete-images" | null;

export default function DatasetPage({ id }: { id: number }) {
  const { words, format } = useSpeech();
  const [, go] = useLocation();
  const queries = useQueryClient();
  const dataset = useQuery(getDataset, { datasetId: id }, { retry: 1 });
  const images = useImages(id);
  const refresh = useMutation(refreshDataset);
  const [found, setFound] = useState<RefreshDatasetResponse | null>(null);
  const [inspecting, setInspecting] = useState(false);
  const able = useQuery(TrainerService.method.getTrainerCapabilities, {});
  const [captioning, setCaptioning] = useState(false);
  const [dialog, setDialog] = useState<Dialog>(null);
  const [selected, setSelected] = useState<ReadonlySet<number>>(new Set());
  const [doomed, setDoomed] = useState<ReadonlySet<number>>(new Set());
  const [opened, setOpened] = useState<number | null>(null);

  const { refetch: refetchDataset } = dataset;
  const { refetch: refetchImages, fetchNextPage, isFetchingNextPage, hasNextPage } = images;
  const reload = useCallback(() => {
    void refetchDataset();
    void refetchImages();
  }, [refetchDataset, refetchImages]);
  const { add: addImages } = images;
  const landed = useCallback(
    (fresh: readonly Image[]) => {
      void refetchDataset();
      addImages(fresh);
    },
    [refetchDataset, addImages],
  );
  const select = useCallback((imageId: number, on: boolean) => {
    setSelected((before) => {
      const after = new Set(before);
      if (on) after.add(imageId);
      else after.delete(imageId);
      return after;
    });
  }, []);
  const needMore = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);

  const recount = async () => {
    try {
      const answer = await refresh.mutateAsync({ datasetId: id });
      setFound(answer);
      const before = Number(answer.previousNumItems);
      const now = Number(answer.dataset?.numItems ?? 0n);
      if (answer.missing.length + answer.corrupt.length === 0) {
        const message = before === now ? words.datasets.refreshed(now) : words.datasets.refreshedFrom(before, now);
        notify(words, message, "green");
      }
      reload();
    } catch (error) {
      notifyFailure(error, words);
    }
  };
  const deleteDataset = async (force: boolean) => {
    try {
      await catalog.deleteDataset({ datasetId: id, force });
    } catch (error) {
      // Used by an unfinished job: asked once more, knowing that.
      if (failureOf(error).reason !== "DATASET_IN_USE" || force) throw error;
      setTimeout(() => setDialog("force"));
      return;
    }
    notify(words, words.datasets.deleted(dataset.data?.dataset?.name ?? ""));
    queries.removeQueries({ queryKey: createConnectQueryKey({ schema: getDataset, transport, input: { datasetId: id }, cardinality: "finite" }) });
    go("/datasets");
  };
  const deleteImages = async () => {
    const gone = new Set<number>();
    try {
      await each([...doomed], 4, async (imageId) => {
        try {
          await catalog.deleteImage({ imageId });
        } catch (error) {
          if (failureOf(error).code !== Code.NotFound) throw error; // else somebody else has deleted it
        }
        gone.add(imageId);
      });
      setOpened(null);
    } finally {
      // Those that are gone leave the page, also where another could not be deleted.
      images.remove(gone);
      setSelected((before) => new Set([...before].filter((imageId) => !gone.has(imageId))));
      setDoomed((before) => new Set([...before].filter((imageId) => !gone.has(imageId))));
      void refetchDataset();
    }
  };

  if (dataset.error) {
    return (
      <Page title={words.datasets.title} back={{ to: "/datasets", label: words.datasets.back }}>
        <Failed error={dataset.error} retry={() => void dataset.refetch()} />
      </Page>
    );
  }
  const it = dataset.data?.dataset;
  if (!it) return <Skeleton height={200} />;
  const viewed = opened === null ? undefined : images.images[opened];
  const size = Number(it.numItems);
  return (
    <Page
      title={it.name}
      back={{ to: "/datasets", label: words.datasets.back }}
      intro={
        <>
          {words.common.images(size)} · {format.bytes(it.sizeBytes)}
          {it.description && <> · {it.description}</>}
        </>
      }
      actions={
        <>
          <Button
            variant="default"
            leftSection={<IconRefresh size={16} aria-hidden />}
            loading={refresh.isPending}
            onClick={() => void recount()}
          >
            {words.datasets.refresh}
          </Button>
          {size > 0 && (
            <Button
              variant="default"
              leftSection={<IconZoomCheck size={16} aria-hidden />}
              disabled={inspecting}
              onClick={() => setInspecting(true)}
            >
              {words.inspection.inspect}
            </Button>
          )}
          {size > 0 && able.data?.captionModel && it.type === DatasetType.IMAGE && (
            <Button
              variant="default"
              leftSection={<IconTextCaption size={16} aria-hidden />}
              disabled={captioning}
              onClick={() => setCaptioning(true)}
            >
              {words.captioning.caption}
            </Button>
          )}
          {size > 0 && (
            <Button component={Link} href={`/training?new=${id}`} leftSection={<IconSchool size={16} aria-hidden />}>
              {words.datasets.train}
            </Button>
          )}
          <Menu position="bottom-end">
            <Menu.Target>
              <Button variant="default" px="xs" aria-label={words.datasets.edit}>
                <IconDots size={18} aria-hidden />
              </Button>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Item leftSection={<IconPencil size={16} aria-hidden />} onClick={() => setDialog("edit")}>
                {words.datasets.edit}
              </Menu.Item>
              <Menu.Item color="red" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => setDialog("delete")}>
                {words.common.delete}
              </Menu.Item>
            </Menu.Dropdown>
          </Menu>
        </>
      }
    >
      {found && <Damage found={found} onClose={() => setFound(null)} />}
      {inspecting && (
        <Inspection
          datasetId={id}
          onSelect={(imageIds) => setSelected((before) => new Set([...before, ...imageIds]))}
          onClose={() => setInspecting(false)}
        />
      )}
      {captioning && able.data && (
        <Captioning
          datasetId={id}
          model={able.data.captionModel}
          onCaption={images.recaption}
          onClose={() => setCaptioning(false)}
        />
      )}
      <UploadPanel datasetId={id} video={dataset.data?.dataset?.type === DatasetType.VIDEO} onLanded={landed} />
      {images.error && <Failed error={images.error} retry={() => void images.refetch()} />}
      {images.total === 0 && images.isSuccess ? (
        <Empty title={words.datasets.imagesEmptyTitle} hint={words.datasets.imagesEmptyHint} />
      ) : (
        <section aria-label={words.images.title}>
          <Group justify="space-between" mb="sm" mih={36}>
            <Title order={2} size="h4">
              {words.images.title}
            </Title>
            <Group gap="xs">
              {selected.size > 0 && (
                <>
                  <Text size="sm" role="status">
                    {words.images.selected(selected.size)}
                  </Text>
                  <Button size="xs" variant="default" onClick={() => setSelected(new Set())}>
                    {words.images.selectNone}
                  </Button>
                  <Button
                    size="xs"
                    color="red"
                    variant="outline"
                    onClick={() => {
                      setDoomed(selected);
                      setDialog("delete-images");
                    }}
                  >
                    {words.images.deleteSelected}
                  </Button>
                </>
              )}
              <Button size="xs" variant="default" onClick={() => setDialog("bulk")}>
                {words.images.bulk}
              </Button>
            </Group>
          </Group>
          <ImageGrid
            images={images.images}
            total={images.total}
            selected={selected}
            onSelect={select}
            onOpen={setOpened}
            onNeedMore={needMore}
          />
        </section>
      )}
      {viewed && opened !== null && (
        <ImageViewer
          key={viewed.id}
          image={viewed}
          place={`${format.number(opened + 1)} / ${format.number(images.total)}`}
          previous={opened > 0 ? () => setOpened(opened - 1) : undefined}
          next={opened + 1 < images.images.length ? () => setOpened(opened + 1) : undefined}
          onClose={() => setOpened(null)}
          onChanged={images.replace}
          onDelete={() => {
            setDoomed(new Set([viewed.id]));
            setDialog("delete-images");
          }}
        />
      )}
      {dialog === "edit" && (
        <DatasetForm
          dataset={it}
          onClose={() => setDialog(null)}
          onSaved={() => {
            setDialog(null);
            void refetchDataset();
          }}
        />
      )}
      {(dialog === "delete" || dialog === "force") && (
        <Confirm
          key={dialog}
          title={words.datasets.deleteTitle}
          text={dialog === "force" ? words.datasets.forceText : words.datasets.deleteText(it.name, words.common.images(size))}
          yes={dialog === "force" ? words.datasets.forceDelete : words.common.delete}
          onYes={() => deleteDataset(dialog === "force")}
          onClose={() => setDialog(null)}
        />
      )}
      {dialog === "delete-images" && (
        <Confirm
          title={words.images.deleteAsk(doomed.size)}
          yes={words.common.delete}
          onYes={deleteImages}
          onClose={() => setDialog(null)}
        />
      )}
      {dialog === "bulk" && (
        <BulkCaptions
          datasetId={id}
          total={images.total}
          selected={selected}
          onClose={() => setDialog(null)}
          onChanged={reload}
        />
      )}
    </Page>
  );
}
