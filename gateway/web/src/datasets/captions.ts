import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";

/** What to do to many captions: first find and replace (plain text, every occurrence), then the prefix. */
export interface CaptionEdit {
  prefix: string;
  find: string;
  replace: string;
}

/** The caption after the edit. A caption that has the prefix already does not get it twice. */
export function edited(caption: string, { prefix, find, replace }: CaptionEdit): string {
  const replaced = find === "" ? caption : caption.replaceAll(find, () => replace);
  return prefix === "" || replaced.startsWith(prefix) ? replaced : prefix + replaced;
}

export interface CaptionChange {
  image: Image;
  caption: string;
}

/** The images whose caption the edit changes, with the new one. */
export function changes(images: readonly Image[], edit: CaptionEdit): CaptionChange[] {
  return images
    .map((image) => ({ image, caption: edited(image.caption, edit) }))
    .filter(({ image, caption }) => caption !== image.caption);
}
