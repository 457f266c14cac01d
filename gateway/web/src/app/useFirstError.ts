import { type RefObject, useEffect, useRef } from "react";
import type { Failure } from "../api/errors";

/** A ref for a form: after a refusal, the first field that it names is brought into view and gets the focus. */
export function useFirstError(failure: Failure | null): RefObject<HTMLFormElement | null> {
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (!failure) return;
    // After the next frame: a section that holds the field may have to open first.
    const timer = setTimeout(() => form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus(), 250);
    return () => clearTimeout(timer);
  }, [failure]);
  return form;
}
