import { hold, type Picture } from "./inputs";

/** Pixels of the longer side of the small picture that stays with the form. */
const PREVIEW = 128;
/** The contract's limit. */
export const MAX_BYTES = 33_554_432;

/** A file as a picture to begin with. Throws where the browser cannot read it. */
export async function pictureFrom(file: Blob, name: string): Promise<Picture> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const bitmap = await createImageBitmap(file); // upright, as the server takes it
  const { width, height } = bitmap;
  const scale = Math.min(1, PREVIEW / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { from: "file", sha256: hold(bytes, file.type), name, preview: canvas.toDataURL("image/webp", 0.8), width, height };
}
