export type Language = "en" | "fr";

export const LANGUAGE_KEY = "atelier-language";

/** The language chosen before if it is one of ours, else the first of the browser's that is, else English. */
export function chooseLanguage(chosen: string | null, preferred: readonly string[]): Language {
  for (const tag of [chosen, ...preferred]) {
    const language = tag?.toLowerCase().split("-")[0];
    if (language === "en" || language === "fr") return language;
  }
  return "en";
}
