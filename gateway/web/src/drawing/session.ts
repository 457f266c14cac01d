import { fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import type { Draft } from "./draft";
import { Drawing, isOver } from "./Drawing";

// What the drawing pages hold beyond one visit: other pages may be looked at meanwhile, and the browser may be reloaded.
const REQUEST_KEY = "atelier-drawing";
const DRAFT_KEY = "atelier-drawing-form-1"; // another number when the form's fields change
let draft: Draft | null = null;
let drawing: Drawing | null = null;
let compared: readonly Drawing[] = [];

export function rememberedDraft(): Draft | null {
  if (draft) return draft;
  try {
    draft = JSON.parse(sessionStorage.getItem(DRAFT_KEY) ?? "null") as Draft | null;
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
export function rememberedDrawing(): Drawing | null {
  if (drawing) return drawing;
  try {
    const stored = sessionStorage.getItem(REQUEST_KEY);
    if (stored) drawing = keep(new Drawing(fromJsonString(GenerateRequestSchema, stored)));
  } catch {
    // Storage closed to us, or a request of an older version: nothing to go on with.
  }
  return drawing;
}

export function rememberDrawing(next: Drawing): void {
  drawing = keep(next);
}

export const rememberedCompared = () => compared;
export function rememberCompared(next: readonly Drawing[]): void {
  compared = next;
}

function keep(it: Drawing): Drawing {
  try {
    sessionStorage.setItem(REQUEST_KEY, toJsonString(GenerateRequestSchema, it.request));
    const stop = it.subscribe(() => {
      if (!isOver(it.snapshot().phase)) return;
      stop();
      if (sessionStorage.getItem(REQUEST_KEY)?.includes(it.request.requestId)) sessionStorage.removeItem(REQUEST_KEY);
    });
  } catch {
    // Without storage a reload shows it in the history alone.
  }
  return it;
}
