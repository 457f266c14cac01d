import { useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { failureOf, remainder } from "../api/errors";
import { useFirstError } from "../app/useFirstError";
import type { GenerateRequest } from "../gen/atelier/generator/v1/generator_service_pb";
import { type Draft, nameOf, problemsOf } from "./draft";
import { Drawing, type DrawingState } from "./Drawing";
import type { FieldsProps } from "./Fields";
import { type Place, rememberDraft, rememberDrawing, rememberedDrawing } from "./session";
import type { Choices } from "./useChoices";

const IDLE = { subscribe: () => () => undefined, snapshot: (): DrawingState | null => null };

/** A page's form, the drawing that came of it last, and what the server said of the form's fields. */
export function useForm(choices: Choices, place: Place, first: () => Draft) {
  const [draft, setDraft] = useState(first);
  const [drawing, setDrawing] = useState(() => rememberedDrawing(place));
  const state = useSyncExternalStore<DrawingState | null>(
    drawing?.subscribe ?? IDLE.subscribe,
    drawing?.snapshot ?? IDLE.snapshot,
  );
  useEffect(() => rememberDraft(draft), [draft]);
  const error = state?.error ?? null;
  const failure = useMemo(() => (error === null ? null : failureOf(error)), [error]);
  const problems = useMemo(() => problemsOf(failure), [failure]);
  const form = useFirstError(failure);
  const fields: FieldsProps = {
    draft,
    choices,
    set: (changes) => setDraft((before) => ({ ...before, ...(typeof changes === "function" ? changes(before) : changes) })),
    problem: (name) => problems[name],
  };
  const named = Object.keys(failure?.fields ?? {});
  return {
    draft,
    setDraft,
    drawing,
    state,
    form,
    fields,
    /** The form is to be changed: what is wrong stands at its fields. */
    refused: named.length > 0,
    /** What the server said that belongs to no field. */
    rest: failure && named.length > 0 ? remainder(failure, named.filter((path) => nameOf(path) !== null)) : "",
    start: (request: GenerateRequest) => setDrawing(rememberDrawing(place, new Drawing(request))),
  };
}
