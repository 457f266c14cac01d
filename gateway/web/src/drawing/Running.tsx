import { Alert, Button, Group, Progress, Stack, Text } from "@mantine/core";
import { useSyncExternalStore } from "react";
import { Failed, notifyFailure } from "../api/Failed";
import type { Generation } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { type Drawing, type DrawingState, isOver } from "./Drawing";
import classes from "./Drawing.module.css";
import { PictureButtons, SettingsList } from "./Pictures";
import type { Draft } from "./draft";
import { Shown } from "./Shown";

interface RunningProps {
  drawing: Drawing;
  onUse?: (draft: Draft) => void;
  /** Without the list of settings: where several stand side by side. */
  brief?: boolean;
}

/** A drawing as it goes: its place, its steps, its pictures taking shape, then the pictures and how they were made. */
export function Running({ drawing, onUse, brief }: RunningProps) {
  const { words } = useSpeech();
  const state = useSyncExternalStore(drawing.subscribe, drawing.snapshot);
  const over = isOver(state.phase);
  const isGrid = drawing.request.settings?.grid !== undefined;
  // The sheet of a grid comes last, and is looked at first.
  const cells = isGrid ? state.tiles.slice(0, -1) : state.tiles;
  const sheet = isGrid ? state.tiles.at(-1) : null;
  const promptOf = (index: number) =>
    state.generation?.images.find((image) => image.index === index)?.prompt ?? drawing.request.settings?.prompt ?? "";
  return (
    <Stack gap="sm" data-testid="drawing" data-phase={state.phase} data-request={drawing.request.requestId}>
      {!over && (
        <Group justify="space-between" wrap="nowrap">
          <Text size="sm" role="status">
            {say(state, words.drawing)}
          </Text>
          <Button
            size="xs"
            variant="default"
            onClick={() => drawing.cancel().catch((error: unknown) => notifyFailure(error, words))}
          >
            {words.drawing.stop}
          </Button>
        </Group>
      )}
      {!over && (
        <Progress
          value={state.totalSteps ? (100 * state.step) / state.totalSteps : 0}
          animated={state.phase === "drawing"}
          aria-label={words.drawing.generating}
        />
      )}
      {state.phase === "cancelled" && <Alert color="gray">{words.drawing.cancelled}</Alert>}
      {state.error !== null && <Failed error={state.error} />}
      {state.generation?.warnings.map((warning) => (
        <Alert key={warning} color="yellow">
          {warning}
        </Alert>
      ))}
      {state.phase !== "failed" && state.phase !== "cancelled" && (
        <>
          {sheet && (
            <figure className={classes.whole}>
              <a href={sheet.url} target="_blank" rel="noreferrer">
                <Shown url={sheet.url} contentType={sheet.contentType} alt={words.grid.sheetAlt(cells.length)} className={classes.sheet} final />
              </a>
              {state.generation && <Finished generation={state.generation} index={cells.length} />}
            </figure>
          )}
          <ul className={classes.tiles} data-many={isGrid || undefined}>
            {cells.map((tile, index) => (
              // a picture's place is its identity
              <li key={index} className={classes.tile}>
                {tile ? (
                  <Shown
                    url={tile.url}
                    contentType={tile.contentType}
                    className={classes.picture}
                    plays
                    final={tile.step === null}
                    alt={
                      tile.step === null
                        ? words.drawing.pictureAlt(promptOf(index), tile.seed)
                        : words.drawing.previewAlt(index + 1, tile.step)
                    }
                  />
                ) : (
                  <div className={classes.waiting} />
                )}
                {state.generation && <Finished generation={state.generation} index={index} onUse={onUse} />}
              </li>
            ))}
          </ul>
        </>
      )}
      {state.generation && !brief && <SettingsList generation={state.generation} onUse={onUse} />}
    </Stack>
  );
}

function Finished({ generation, index, onUse }: { generation: Generation; index: number; onUse?: (draft: Draft) => void }) {
  const image = generation.images.find((each) => each.index === index);
  return image ? <PictureButtons generation={generation} image={image} onUse={onUse} /> : null;
}

function say(state: DrawingState, words: ReturnType<typeof useSpeech>["words"]["drawing"]): string {
  if (state.lost) return words.reconnecting;
  switch (state.phase) {
    case "queued":
      return words.queued(state.position);
    case "waiting":
      return words.waitingForTraining;
    case "loading":
      return words.loadingModel;
    case "drawing":
      return words.stepOf(state.step, state.totalSteps);
    default:
      return `${words.generating}…`;
  }
}
