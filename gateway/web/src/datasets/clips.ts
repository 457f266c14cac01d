import { type Image, ImageFormat } from "../gen/atelier/catalog/v1/dataset_pb";

export const isClip = (image: Image) => image.numFrames > 0;

/** Shown by a player; other clips move by themselves, as pictures do. */
export const isFilm = (image: Image) => image.format === ImageFormat.MP4 || image.format === ImageFormat.WEBM;

/** How long a clip lasts, in seconds to a tenth. */
export function seconds(image: Image): number {
  return image.framesPerSecond > 0 ? Math.round((10 * image.numFrames) / image.framesPerSecond) / 10 : 0;
}
