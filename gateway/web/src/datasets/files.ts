/** A picture or a clip to send, with the caption and the mask that lay beside it. */
export interface Picture {
  file: File;
  caption: string;
  mask?: File | undefined;
}

const stem = (name: string) => name.replace(/\.[^.]*$/, "");
/** The stem of the picture that a file of this name is the mask of, if there is such a picture; else empty. */
const maskedStem = (name: string) => /^(.+)(-masklabel|\.mask)\.png$/i.exec(name)?.[1] ?? "";
const isCaption = (name: string) => /\.(txt|caption)$/i.test(name);

/**
 * Pictures with the captions of the `.txt` or `.caption` files of the same name, and the masks of `-masklabel.png` or
 * `.mask.png` files. A caption without a picture is left out; every other file is taken as a picture, since the server
 * tells by content and says why it refuses.
 */
export async function pairCaptions(files: readonly File[]): Promise<Picture[]> {
  const captions = new Map<string, string>();
  for (const file of files.filter((each) => isCaption(each.name))) {
    // small local files
    captions.set(stem(file.name), (await file.text()).trim());
  }
  const seen = files.filter((file) => !isCaption(file.name) && !file.name.startsWith("."));
  const stems = new Set(seen.map((file) => stem(file.name)));
  const isMask = (file: File) => stems.has(maskedStem(file.name));
  const masks = new Map(seen.filter(isMask).map((file) => [maskedStem(file.name), file]));
  return seen
    .filter((file) => !isMask(file))
    .map((file) => ({ file, caption: captions.get(stem(file.name)) ?? "", mask: masks.get(stem(file.name)) }));
}
