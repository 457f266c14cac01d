import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Modal, Select, Skeleton, Stack, Text } from "@mantine/core";
import { useState } from "react";
import { Failed } from "../api/Failed";
import { pictureUrl, thumbnailUrl } from "../api/urls";
import { More, type Paged } from "../app/More";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { DatasetType } from "../gen/atelier/catalog/v1/dataset_pb";
import { GenerationStatus } from "../gen/atelier/generator/v1/generation_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useSpeech } from "../i18n";
import { useDatasets } from "../training/names";
import type { Picture } from "./inputs";
import classes from "./Inputs.module.css";

interface PicturePickerProps {
  from: "dataset" | "gallery";
  onPick: (picture: Picture) => void;
  onClose: () => void;
}

/** Pictures that are in the studio already, to begin with one. */
export default function PicturePicker({ from, onPick, onClose }: PicturePickerProps) {
  const { words } = useSpeech();
  const title = from === "dataset" ? words.inputs.pickDataset : words.inputs.pickGallery;
  return (
    <Modal opened onClose={onClose} size="xl" title={title} closeButtonProps={{ "aria-label": words.common.close }}>
      {from === "dataset" ? <FromDataset onPick={onPick} /> : <FromGallery onPick={onPick} />}
    </Modal>
  );
}

function FromDataset({ onPick }: Pick<PicturePickerProps, "onPick">) {
  const { words } = useSpeech();
  const { datasets, isSuccess, error } = useDatasets();
  const able = datasets.filter((each) => each.type !== DatasetType.VIDEO && each.numItems > 0n);
  const [chosen, setChosen] = useState(0);
  const id = chosen || (able[0]?.id ?? 0);
  if (error) return <Failed error={error} />;
  if (!isSuccess) return <Skeleton height={200} />;
  if (able.length === 0) return <Text c="dimmed">{words.inputs.noDataset}</Text>;
  return (
    <Stack>
      <Select
        label={words.training.dataset}
        searchable
        allowDeselect={false}
        value={String(id)}
        onChange={(value) => setChosen(Number(value))}
        data={able.map((each) => ({ value: String(each.id), label: each.name }))}
      />
      <DatasetImages key={id} datasetId={id} onPick={onPick} />
    </Stack>
  );
}

function DatasetImages({ datasetId, onPick }: Pick<PicturePickerProps, "onPick"> & { datasetId: number }) {
  const list = useInfiniteQuery(CatalogService.method.listImages, { datasetId, pageSize: 60, pageToken: "" }, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const images = list.data?.pages.flatMap((page) => page.images) ?? [];
  return (
    <Pictures
      list={list}
      pictures={images.map(({ id, filename, caption }) => ({
        url: thumbnailUrl(id),
        label: caption || filename,
        picture: { from: "dataset", imageId: id },
      }))}
      onPick={onPick}
    />
  );
}

function FromGallery({ onPick }: Pick<PicturePickerProps, "onPick">) {
  const { words } = useSpeech();
  const list = useInfiniteQuery(
    GeneratorService.method.listGenerations,
    { status: GenerationStatus.COMPLETED, pageSize: 24, pageToken: "" },
    { pageParamKey: "pageToken", getNextPageParam: (page) => page.nextPageToken || undefined, refetchOnMount: "always" },
  );
  const generations = list.data?.pages.flatMap((page) => page.generations) ?? [];
  return (
    <Pictures
      list={list}
      empty={words.drawing.historyEmpty}
      pictures={generations.flatMap((generation) =>
        generation.images
          .filter((image) => image.numFrames === 0 && !image.isSheet)
          .map((image) => ({
            url: pictureUrl(generation.id, image.index),
            label: words.drawing.pictureAlt(image.prompt, image.seed.toString()),
            picture: { from: "gallery" as const, generationId: generation.id, index: image.index },
          })),
      )}
      onPick={onPick}
    />
  );
}

interface PicturesProps {
  pictures: readonly { url: string; label: string; picture: Picture }[];
  list: Paged & { isSuccess: boolean; error: unknown };
  empty?: string;
  onPick: (picture: Picture) => void;
}

function Pictures({ pictures, list, empty, onPick }: PicturesProps) {
  return (
    <>
      {list.error !== null && <Failed error={list.error} />}
      {list.isSuccess && pictures.length === 0 && <Text c="dimmed">{empty}</Text>}
      <ul className={classes.choices} data-testid="picture-choices">
        {pictures.map(({ url, label, picture }) => (
          <li key={url}>
            <button type="button" className={classes.choice} onClick={() => onPick(picture)} title={label}>
              <img src={url} alt={label} loading="lazy" />
            </button>
          </li>
        ))}
      </ul>
      <More list={list} mt="md" />
    </>
  );
}
