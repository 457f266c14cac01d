import { expect, test } from "vitest";
import { en } from "./en";
import { fr } from "./fr";
import { chooseLanguage } from "./language";

test("the language is the chosen one, else the browser's first of ours, else English", () => {
  expect(chooseLanguage("fr", ["en-GB"])).toBe("fr");
  expect(chooseLanguage(null, ["de", "fr-CA", "en"])).toBe("fr");
  expect(chooseLanguage("xx", ["ja"])).toBe("en");
  expect(chooseLanguage(null, [])).toBe("en");
});

test("every word there is in English is there in French, of the same kind, and none is empty", () => {
  const compare = (one: object, other: object, path: string) => {
    expect(Object.keys(other), path).toEqual(Object.keys(one));
    for (const [key, value] of Object.entries(one)) {
      const there: unknown = (other as Record<string, unknown>)[key];
      expect(typeof there, `${path}.${key}`).toBe(typeof value);
      if (typeof value === "object") compare(value as object, there as object, `${path}.${key}`);
      if (typeof value === "string" && value !== "") expect(there, `${path}.${key}`).not.toBe("");
    }
  };
  compare(en, fr, "words");
});

test("counts have the plural of their language: zero is plural in English and singular in French", () => {
  expect(en.common.images(0)).toBe("0 images");
  expect(en.common.images(1)).toBe("1 image");
  expect(fr.common.images(0)).toBe("0 image");
  expect(fr.common.images(2)).toBe("2 images");
});
