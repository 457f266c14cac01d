import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Language } from "../i18n/language";

/** Numbers, sizes, durations and dates as a language writes them. */
export interface Formats {
  number: (value: number | bigint) => string;
  /** With as many digits as tell losses and rates apart. */
  decimal: (value: number) => string;
  percent: (share: number) => string;
  bytes: (bytes: number | bigint) => string;
  duration: (millis: number | bigint) => string;
  date: (at: Timestamp | undefined) => string;
}

const UNITS: Record<Language, readonly string[]> = {
  en: ["B", "KB", "MB", "GB", "TB"],
  fr: ["o", "Ko", "Mo", "Go", "To"],
};

export function formats(language: Language): Formats {
  const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const digits = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 });
  const tiny = new Intl.NumberFormat(language, { notation: "scientific", maximumSignificantDigits: 3 });
  const short = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
  const percents = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });
  const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  return {
    number: (value) => whole.format(value),
    decimal: (value) => (value !== 0 && Math.abs(value) < 1e-3 ? tiny : digits).format(value),
    // Rounded down: 100 % is said when it is done, and not a step before.
    percent: (share) => percents.format(Math.floor(clamp(share) * 100) / 100),
    bytes: (bytes) => {
      let value = Number(bytes);
      let unit = 0;
      while (value >= 1000 && unit < 4) {
        value /= 1000;
        unit += 1;
      }
      return `${short.format(value)} ${UNITS[language][unit]}`;
    },
    duration: (millis) => duration(Number(millis), language),
    date: (at) => (at ? dates.format(timestampDate(at)) : ""),
  };
}

function clamp(share: number): number {
  return Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0));
}

const DAY: Record<Language, string> = { en: "d", fr: "j" };

/** 850 ms is "1 s", 75 s is "1 min 15 s", 2 h and 5 min is "2 h 5 min": the two largest parts. */
function duration(millis: number, language: Language): string {
  const seconds = Math.max(0, Math.round(millis / 1000));
  const parts: [number, string][] = [
    [Math.floor(seconds / 86400), DAY[language]],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(" ");
}
