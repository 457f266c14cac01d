import { createClient, ConnectError, Code } from "@connectrpc/connect";
import { failureOf, isTransient } from "../api/errors";
import { transport } from "../api/transport";
import { pictureUrl } from "../api/urls";
import type { Generation } from "../gen/atelier/generator/v1/generation_pb";
import { type GenerateRequest, type GenerateResponse, GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { backoff, wait } from "../lib/retry";
import { withDigests } from "./inputs";
import { picturesIn } from "./request";

/** Longer than two of the server's beats (10 s each): such a stream is dead. */
const SILENCE = 30_000;
export const generator = createClient(GeneratorService, transport);

export type Phase = "starting" | "queued" | "waiting" | "loading" | "drawing" | "done" | "cancelled" | "failed";

/** A picture on its way, or finished. */
export interface Tile {
  url: string;
  /** The step that a preview is of; null for the finished picture. */
  step: number | null;
  seed: string;
  contentType: string;
}

export interface DrawingState {
  phase: Phase;
  generationId: string;
  position: number;
  step: number;
  totalSteps: number;
  tiles: readonly (Tile | null)[];
  /** The way to the server is lost and being tried again. */
  lost: boolean;
  generation: Generation | null;
  error: unknown;
}

export function isOver(phase: Phase): boolean {
  return phase === "done" || phase === "cancelled" || phase === "failed";
}

/** One request to draw, followed to its end however often the stream breaks: asking again with its id joins it. */
export class Drawing {
  readonly request: GenerateRequest;
  private state: DrawingState;
  private readonly listeners = new Set<() => void>();
  private cancelling = false;

  constructor(request: GenerateRequest) {
    this.request = request;
    this.state = {
      phase: "starting",
      generationId: "",
      position: 0,
      step: 0,
      totalSteps: 0,
      tiles: Array.from({ length: picturesIn(request.settings) }, () => null),
      lost: false,
      generation: null,
      error: null,
    };
    void this.follow();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly snapshot = (): DrawingState => this.state;

  /** Asks the server to end it; the stream then says that it has. */
  async cancel(): Promise<void> {
    this.cancelling = true;
    if (this.state.generationId === "") return; // told as soon as it has a name
    try {
      await generator.cancelGeneration({ generationId: this.state.generationId });
    } catch (error) {
      this.cancelling = false;
      if (failureOf(error).reason !== "GENERATION_ENDED") throw error;
    }
  }

  private change(changes: Partial<DrawingState>): void {
    this.state = { ...this.state, ...changes };
    for (const listener of this.listeners) listener();
  }

  private async follow(): Promise<void> {
    for (let attempt = 1; !isOver(this.state.phase); attempt += 1) {
      const cut = new AbortController();
      let silence = setTimeout(() => cut.abort(), SILENCE);
      try {
        const request = this.state.generationId === "" ? this.request : withDigests(this.request); // the server has its pictures
        // one stream after another
        for await (const answer of generator.generate(request, { signal: cut.signal })) {
          clearTimeout(silence);
          silence = setTimeout(() => cut.abort(), SILENCE);
          attempt = 1;
          this.take(answer);
        }
      } catch (error) {
        if (ConnectError.from(error).code === Code.Canceled && !cut.signal.aborted) {
          this.change({ phase: "cancelled", lost: false });
        } else if (!isTransient(error) && !cut.signal.aborted) {
          this.change({ phase: "failed", error, lost: false });
        }
      } finally {
        clearTimeout(silence);
      }
      if (isOver(this.state.phase)) break;
      this.change({ lost: true });
      await wait(backoff(attempt), new AbortController().signal);
    }
    for (const tile of this.state.tiles) if (tile?.url.startsWith("blob:")) URL.revokeObjectURL(tile.url);
  }

  private take({ generationId, event }: GenerateResponse): void {
    const changes: Partial<DrawingState> = { generationId, lost: false };
    if (this.state.generationId === "" && this.cancelling) {
      void generator.cancelGeneration({ generationId }).catch(() => undefined); // it had ended by then
    }
    switch (event.case) {
      case "queued":
        Object.assign(changes, { phase: "queued", position: event.value.position });
        break;
      case "waiting":
        changes.phase = "waiting";
        break;
      case "loading":
        changes.phase = "loading";
        break;
      case "step":
        Object.assign(changes, { phase: "drawing", step: event.value.step, totalSteps: event.value.totalSteps });
        break;
      case "preview":
        changes.tiles = this.withTile(event.value.index, event.value.data, event.value.step, "", "image/png");
        break;
      case "image": {
        const { image, data } = event.value;
        changes.tiles = this.withTile(image?.index ?? 0, data, null, image?.seed.toString() ?? "", image?.contentType ?? "");
        break;
      }
      case "done": {
        const { generation } = event.value;
        const tiles = generation?.images.map((image) => ({
          url: pictureUrl(generationId, image.index),
          step: null,
          seed: image.seed.toString(),
          contentType: image.contentType,
        }));
        Object.assign(changes, { phase: "done", generation: generation ?? null, tiles: tiles ?? [] });
        for (const tile of this.state.tiles) if (tile) revokeLater(tile.url);
        break;
      }
    }
    this.change(changes);
  }

  private withTile(index: number, data: Uint8Array, step: number | null, seed: string, contentType: string): (Tile | null)[] {
    const tiles = [...this.state.tiles];
    const before = tiles[index];
    if (before) revokeLater(before.url);
    const blob = new Blob([data as Uint8Array<ArrayBuffer>], { type: contentType });
    tiles[index] = { url: URL.createObjectURL(blob), step, seed, contentType };
    return tiles;
  }
}

/** Once the page has drawn what takes its place. */
function revokeLater(url: string): void {
  if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 2000);
}
