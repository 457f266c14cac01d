import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from "react";
import { formats, type Formats } from "../lib/format";
import { en, type Words } from "./en";
import { fr } from "./fr";
import { chooseLanguage, LANGUAGE_KEY, type Language } from "./language";

const WORDS: Record<Language, Words> = { en, fr };

interface Speech {
  language: Language;
  speak: (language: Language) => void;
  words: Words;
  format: Formats;
}

const SpeechContext = createContext<Speech | null>(null);

/** The language of everything under it: the one chosen before, else the browser's, else English. */
export function SpeechProvider({ children }: { children: ReactNode }) {
  const [language, setLanguage] = useState<Language>(() => chooseLanguage(stored(), navigator.languages));
  const speak = useCallback((next: Language) => {
    try {
      localStorage.setItem(LANGUAGE_KEY, next);
    } catch {
      // Storage may be closed to us: the choice then lasts as long as the page.
    }
    setLanguage(next);
  }, []);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const speech = useMemo(
    () => ({ language, speak, words: WORDS[language], format: formats(language) }),
    [language, speak],
  );
  return <SpeechContext.Provider value={speech}>{children}</SpeechContext.Provider>;
}

export function useSpeech(): Speech {
  const speech = useContext(SpeechContext);
  if (speech === null) throw new Error("useSpeech outside of SpeechProvider");
  return speech;
}

function stored(): string | null {
  try {
    return localStorage.getItem(LANGUAGE_KEY);
  } catch {
    return null;
  }
}
