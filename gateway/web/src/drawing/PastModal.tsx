import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Alert, Anchor, Button, Group, Modal, Skeleton, Stack, Text } from "@mantine/core";
import { IconPin, IconPinnedOff, IconTrash } from "@tabler/icons-react";
import { useState } from "react";
import { Failed, notifyFailure } from "../api/Failed";
import { pictureUrl } from "../api/urls";
import { Confirm } from "../app/Confirm";
import { type Generation, GenerationStatus } from "../gen/atelier/generator/v1/generation_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useSpeech } from "../i18n";
import type { Draft } from "./draft";
import classes from "./Drawing.module.css";
import { inputsOf, type Picture, pictureOf } from "./inputs";
import { Thumbnail } from "./PictureField";
import { PictureButtons, SettingsList } from "./Pictures";
import { Shown } from "./Shown";
import { wordsOf } from "./told";

const { deleteGeneration, cancelGeneration, getGeneration, updateGeneration } = GeneratorService.method;

export function isUnfinished({ status }: Generation): boolean {
  return status === GenerationStatus.QUEUED || status === GenerationStatus.RUNNING;
}

interface PastModalProps {
  id: string;
  /** As a list has it; asked for where no list does. */
  known: Generation | undefined;
  onOpen: (id: string) => void;
  onClose: () => void;
  onChanged: () => void;
  onUse: (draft: Draft) => void;
}

/** One drawing of before: its pictures, where they came from, how they were made, and what can be done with them. */
export function PastModal({ id, known, ...props }: PastModalProps) {
  const { words } = useSpeech();
  const asked = useQuery(getGeneration, { generationId: id }, { enabled: known === undefined });
  const generation = known ?? asked.data?.generation;
  return (
    <Modal
      opened
      onClose={props.onClose}
      size="xl"
      title={wordsOf(generation?.settings) || generation?.modelName || words.drawing.history}
      closeButtonProps={{ "aria-label": words.common.close }}
    >
      {generation ? (
        <Past
          generation={generation}
          {...props}
          onChanged={() => {
            props.onChanged();
            if (!known) void asked.refetch();
          }}
        />
      ) : asked.error ? (
        <Failed error={asked.error} />
      ) : (
        <Skeleton height={240} />
      )}
    </Modal>
  );
}

function Past({ generation, onOpen, onClose, onChanged, onUse }: Omit<PastModalProps, "id" | "known"> & { generation: Generation }) {
  const { words } = useSpeech();
  const prompt = generation.settings?.prompt ?? "";
  const cells = generation.images.filter((image) => !image.isSheet);
  const sheet = generation.images.find((image) => image.isSheet);
  return (
    <Stack>
      {generation.failure && (
        <Alert color="red" title={words.drawing.failed}>
          {generation.failure.message}
        </Alert>
      )}
      {generation.status === GenerationStatus.CANCELLED && <Alert color="gray">{words.drawing.cancelled}</Alert>}
      {generation.warnings.map((warning) => (
        <Alert key={warning} color="yellow">
          {warning}
        </Alert>
      ))}
      {generation.status === GenerationStatus.COMPLETED && (
        <>
          {sheet && (
            <figure className={classes.whole}>
              <a href={pictureUrl(generation.id, sheet.index)} target="_blank" rel="noreferrer">
                <Shown
                  url={pictureUrl(generation.id, sheet.index)}
                  contentType={sheet.contentType}
                  alt={words.grid.sheetAlt(cells.length)}
                  className={classes.sheet}
                />
              </a>
              <PictureButtons generation={generation} image={sheet} />
            </figure>
          )}
          <ul className={classes.tiles} data-many={sheet ? true : undefined}>
            {cells.map((image) => (
              <li key={image.index} className={classes.tile}>
                <Shown
                  url={pictureUrl(generation.id, image.index)}
                  contentType={image.contentType}
                  alt={words.drawing.pictureAlt(image.prompt || prompt, image.seed.toString())}
                  width={image.width}
                  height={image.height}
                  plays
                  className={classes.picture}
                />
                <PictureButtons generation={generation} image={image} onUse={onUse} />
              </li>
            ))}
          </ul>
        </>
      )}
      <Beginnings generation={generation} onOpen={onOpen} />
      <SettingsList generation={generation} onUse={onUse} />
      <Buttons generation={generation} onChanged={onChanged} onClose={onClose} />
    </Stack>
  );
}

/** The pictures that it began with; one that was drawn here leads to its own drawing. */
function Beginnings({ generation, onOpen }: { generation: Generation; onOpen: (id: string) => void }) {
  const { words } = useSpeech();
  const drawn = generation.parents.map(({ generationId, index }): Picture => ({ from: "gallery", generationId, index }));
  const taken = inputsOf(generation.settings).map(pictureOf).filter((each) => each?.from === "dataset");
  const shown = [...new Map([...drawn, ...taken].map((each) => [JSON.stringify(each), each])).values()].filter((each) => each !== null);
  if (shown.length === 0) return null;
  return (
    <Group gap="sm" data-testid="beginnings">
      <Text size="sm" fw={500}>
        {words.gallery.begunWith}
      </Text>
      {shown.map((picture) => (
        <Group key={JSON.stringify(picture)} gap={6} wrap="nowrap">
          <Thumbnail picture={picture} />
          <Beginning picture={picture} onOpen={onOpen} />
        </Group>
      ))}
    </Group>
  );
}

function Beginning({ picture, onOpen }: { picture: Picture; onOpen: (id: string) => void }) {
  const { words } = useSpeech();
  if (picture.from === "dataset") return <Text size="sm">{words.inputs.ofDataset(picture.imageId)}</Text>;
  if (picture.from === "file") return null;
  return (
    <Anchor component="button" type="button" size="sm" onClick={() => onOpen(picture.generationId)}>
      {words.inputs.ofGallery(picture.index + 1)}
    </Anchor>
  );
}

function Buttons({ generation, onChanged, onClose }: Pick<PastModalProps, "onChanged" | "onClose"> & { generation: Generation }) {
  const { words } = useSpeech();
  const [asking, setAsking] = useState(false);
  const remove = useMutation(deleteGeneration);
  const cancel = useMutation(cancelGeneration);
  const update = useMutation(updateGeneration);
  const { id: generationId, isKept } = generation;
  const changed = (answer: Promise<unknown>) => answer.then(onChanged, (error: unknown) => notifyFailure(error, words));
  return (
    <Group justify="space-between">
      <Button
        variant="default"
        leftSection={isKept ? <IconPinnedOff size={16} aria-hidden /> : <IconPin size={16} aria-hidden />}
        loading={update.isPending}
        title={words.gallery.keepHint}
        onClick={() => void changed(update.mutateAsync({ generationId, isKept: !isKept }))}
      >
        {isKept ? words.gallery.unkeep : words.gallery.keep}
      </Button>
      {isUnfinished(generation) ? (
        <Button variant="default" loading={cancel.isPending} onClick={() => void changed(cancel.mutateAsync({ generationId }))}>
          {words.drawing.stop}
        </Button>
      ) : (
        <Button variant="subtle" color="red" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => setAsking(true)}>
          {words.drawing.deleteOne}
        </Button>
      )}
      {asking && (
        <Confirm
          title={words.drawing.deleteAsk}
          text={isKept ? words.gallery.deleteKept : undefined}
          yes={words.common.delete}
          onYes={async () => {
            await remove.mutateAsync({ generationId });
            onChanged();
            onClose();
          }}
          onClose={() => setAsking(false)}
        />
      )}
    </Group>
  );
}
