import { notifications } from "@mantine/notifications";
import type { ReactNode } from "react";
import type { Words } from "../i18n/en";

/** Says in passing that something was done, or was not. */
export function notify(words: Words, message: ReactNode, color?: "green" | "red"): void {
  notifications.show({
    message,
    color,
    autoClose: color === "red" ? 8000 : 4000,
    closeButtonProps: { "aria-label": words.common.close },
  });
}
