/** A picture to send, with the caption that lay beside it. */
export interface Picture {
  file: File;
  caption: string;
}

const stem = (name: string) => name.replace(/\.[^.]*$/, "");
const isCaption = (name: string) => /\.(txt|caption)$/i.test(name);

/**
 * Pictures with the captions of the `.txt` or `.caption` files of the same name. A caption without a picture is left
 * out; every other file is taken as a picture, since the server tells by content and says why it refuses.
 */
export async function pairCaptions(files: readonly File[]): Promise<Picture[]> {
  const captions = new Map<string, string>();
  for (const file of files.filter((each) => isCaption(each.name))) {
    // small local files
    captions.set(stem(file.name), (await file.text()).trim());
  }
  return files
    .filter((file) => !isCaption(file.name) && !file.name.startsWith("."))
    .map((file) => ({ file, caption: captions.get(stem(file.name)) ?? "" }));
}
