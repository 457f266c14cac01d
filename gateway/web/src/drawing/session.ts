import { fromJsonString } from "@bufbuild/protobuf";
import { type GenerateRequest, GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import type { Draft } from "./draft";
import { Drawing, isOver } from "./Drawing";
import { inputsOf, leanText, withDigests, withoutUnsent } from "./inputs";

// What the drawing pages hold beyond one visit: other pages may be looked at meanwhile, and the browser may be reloaded.
// Pictures are kept by their digests: their bytes have no room there.
const REQUEST_KEYS = { draw: "atelier-drawing", grid: "atelier-grid" };
const DRAFT_KEY = "atelier-drawing-form-2"; // another number when the form's fields change
const SENT_KEY = "atelier-pictures-sent";
let draft: Draft | null = null;
const drawings: Partial<Record<Place, Drawing>> = {};
let compared: readonly Drawing[] = [];

/** The pages that each go on with a drawing of their own. */
export type Place = keyof typeof REQUEST_KEYS;

export function rememberedDraft(): Draft | null {
  if (draft) return draft;
  try {
    const stored = JSON.parse(sessionStorage.getItem(DRAFT_KEY) ?? "null") as Draft | null;
    draft = stored && withoutUnsent(stored, sent());
  } catch {
    // As below.
  }
  return draft;
}

export function rememberDraft(next: Draft): void {
  draft = next;
  try {
    sessionStorage.setItem(DRAFT_KEY, JSON.stringify(next));
  } catch {
    // Storage may be closed to us: a reload then begins with an empty form.
  }
}

/** The drawing of before: this visit's, or the one that was under way when the page was reloaded. */
export function rememberedDrawing(place: Place): Drawing | null {
  const there = drawings[place];
  if (there) return there;
  try {
    const stored = sessionStorage.getItem(REQUEST_KEYS[place]);
    if (stored) return rememberDrawing(place, new Drawing(fromJsonString(GenerateRequestSchema, stored)));
  } catch {
    // Storage closed to us, or a request of an older version: nothing to go on with.
  }
  return null;
}

export function rememberDrawing(place: Place, next: Drawing): Drawing {
  drawings[place] = next;
  try {
    sessionStorage.setItem(REQUEST_KEYS[place], leanText(next.request));
    const stop = next.subscribe(() => {
      const { phase, generationId } = next.snapshot();
      if (generationId !== "") markSent(next.request);
      if (!isOver(phase)) return;
      stop();
      if (sessionStorage.getItem(REQUEST_KEYS[place])?.includes(next.request.requestId)) {
        sessionStorage.removeItem(REQUEST_KEYS[place]);
      }
    });
  } catch {
    // Without storage a reload shows it in the history alone.
  }
  return next;
}

export const rememberedCompared = () => compared;
export function rememberCompared(next: readonly Drawing[]): void {
  compared = next;
}

function sent(): Set<string> {
  return new Set(JSON.parse(sessionStorage.getItem(SENT_KEY) ?? "[]") as string[]);
}

const marked = new WeakSet<GenerateRequest>();
/** The server has the pictures of this request. */
function markSent(request: GenerateRequest): void {
  if (marked.has(request)) return;
  marked.add(request);
  const lean = inputsOf(withDigests(request).settings);
  if (lean.length === 0) return;
  const digests = lean.flatMap(({ source }) => (source.case === "sha256" ? [source.value] : []));
  sessionStorage.setItem(SENT_KEY, JSON.stringify([...sent(), ...digests].slice(-200)));
}
