import { useMutation } from "@connectrpc/connect-query";
import { ActionIcon, Anchor, Button, Group, Modal, Stack, Text, Textarea } from "@mantine/core";
import { IconChevronLeft, IconChevronRight, IconTrash } from "@tabler/icons-react";
import { useState } from "react";
import { failureOf } from "../api/errors";
import { notifyFailure } from "../api/Failed";
import { originalUrl } from "../api/urls";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { isClip, isFilm } from "./clips";
import classes from "./ImageViewer.module.css";
import { Mask } from "./Mask";

interface ImageViewerProps {
  image: Image;
  place: string;
  /** Undefined where there is none that way. */
  previous?: () => void;
  next?: () => void;
  onClose: () => void;
  onChanged: (image: Image) => void;
  onDelete: () => void;
}

/** One picture or clip in full, with its caption to edit. */
export function ImageViewer({ image, place, previous, next, onClose, onChanged, onDelete }: ImageViewerProps) {
  const { words, format } = useSpeech();
  const [caption, setCaption] = useState(image.caption);
  const update = useMutation(CatalogService.method.updateImage);
  const problem = update.error ? failureOf(update.error) : null;
  const save = async (then: () => void) => {
    try {
      if (caption !== image.caption) {
        const { image: changed } = await update.mutateAsync({ imageId: image.id, caption });
        if (changed) onChanged(changed);
      }
      then();
    } catch (error) {
      if (!failureOf(error).fields["caption"]) notifyFailure(error, words);
    }
  };
  return (
    <Modal
      opened
      onClose={onClose}
      size="xl"
      title={image.filename}
      closeButtonProps={{ "aria-label": words.common.close }}
      classNames={{ title: classes.title }}
    >
      <Stack gap="sm">
        <div className={classes.stage}>
          <ActionIcon variant="default" size="lg" disabled={!previous} onClick={previous} aria-label={words.images.previous}>
            <IconChevronLeft size={20} aria-hidden />
          </ActionIcon>
          {isFilm(image) ? (
            <video src={originalUrl(image.id)} aria-label={image.caption || image.filename} className={classes.picture} controls autoPlay loop muted />
          ) : (
            <img src={originalUrl(image.id)} alt={image.caption || image.filename} className={classes.picture} />
          )}
          <ActionIcon variant="default" size="lg" disabled={!next} onClick={next} aria-label={words.images.next}>
            <IconChevronRight size={20} aria-hidden />
          </ActionIcon>
        </div>
        <Group justify="space-between">
          <Text size="sm" c="dimmed">
            {place} · {image.width} × {image.height} · {format.bytes(image.sizeBytes)}
            {isClip(image) && ` · ${words.images.frames(image.numFrames, format.decimal(image.framesPerSecond))}`}
          </Text>
          <Anchor size="sm" href={originalUrl(image.id)} target="_blank" rel="noreferrer">
            {words.images.original}
          </Anchor>
        </Group>
        {!isClip(image) && <Mask image={image} onChanged={onChanged} />}
        <Textarea
          label={words.images.caption}
          description={words.images.captionHint}
          autosize
          minRows={2}
          maxRows={6}
          value={caption}
          error={problem?.fields["caption"]}
          onChange={(event) => setCaption(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void save(next ?? onClose);
          }}
          data-autofocus
        />
        <Group justify="space-between">
          <Button variant="subtle" color="red" leftSection={<IconTrash size={16} aria-hidden />} onClick={onDelete}>
            {words.images.deleteOne}
          </Button>
          <Group gap="xs">
            <Button variant="default" loading={update.isPending} onClick={() => void save(onClose)}>
              {words.common.save}
            </Button>
            {next && (
              <Button loading={update.isPending} onClick={() => void save(next)}>
                {words.images.saveNext}
              </Button>
            )}
          </Group>
        </Group>
      </Stack>
    </Modal>
  );
}
