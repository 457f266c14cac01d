import { clone, create, toJsonString } from "@bufbuild/protobuf";
import { originalUrl, pictureUrl, thumbnailUrl } from "../api/urls";
import {
  GeneratedImageRefSchema,
  type GenerationSettings,
  type InputImage,
  InputImageSchema,
} from "../gen/atelier/generator/v1/generation_pb";
import { type GenerateRequest, GenerateRequestSchema } from "../gen/atelier/generator/v1/generator_service_pb";
import { sha256 } from "../lib/sha256";
import type { Draft } from "./draft";

/** A picture that a drawing begins with, by where it is from. */
export type Picture =
  | {
      from: "file";
      sha256: string;
      name: string;
      /** A small one as a data: URL, or empty where only its digest is known. */
      preview: string;
      /** Pixels, upright; 0 where only its digest is known. */
      width: number;
      height: number;
    }
  | { from: "gallery"; generationId: string; index: number }
  | { from: "dataset"; imageId: number };

// Bytes are too large for the form and for the session's storage: they are here as long as the page is.
const held = new Map<string, { bytes: Uint8Array<ArrayBuffer>; url: string }>();

/** Remembers a file's bytes while the page is open, and says their digest. */
export function hold(bytes: Uint8Array<ArrayBuffer>, type: string): string {
  const digest = sha256(bytes);
  if (!held.has(digest)) held.set(digest, { bytes, url: URL.createObjectURL(new Blob([bytes], { type })) });
  return digest;
}

/** Whether the file's own bytes are here, and not only what is known of it. */
export function isHeld(picture: Picture): boolean {
  return picture.from !== "file" || held.has(picture.sha256);
}

/** Where the whole picture is shown from, else a small one; empty where there is none to show. */
export function urlOf(picture: Picture): string {
  switch (picture.from) {
    case "file":
      return held.get(picture.sha256)?.url ?? picture.preview;
    case "gallery":
      return pictureUrl(picture.generationId, picture.index);
    case "dataset":
      return originalUrl(picture.imageId);
  }
}

/** The same, small where there is a small one. */
export function smallUrlOf(picture: Picture): string {
  if (picture.from === "dataset") return thumbnailUrl(picture.imageId);
  return (picture.from === "file" && picture.preview) || urlOf(picture);
}

export function inputOf(picture: Picture): InputImage {
  switch (picture.from) {
    case "file": {
      const bytes = held.get(picture.sha256)?.bytes;
      return create(InputImageSchema, {
        source: bytes ? { case: "data", value: bytes } : { case: "sha256", value: picture.sha256 },
      });
    }
    case "gallery": {
      const { generationId, index } = picture;
      return create(InputImageSchema, {
        source: { case: "generated", value: create(GeneratedImageRefSchema, { generationId, index }) },
      });
    }
    case "dataset":
      return create(InputImageSchema, { source: { case: "datasetImageId", value: BigInt(picture.imageId) } });
  }
}

/** What the server's settings name, as the form has it. */
export function pictureOf(input: InputImage | undefined): Picture | null {
  const source = input?.source;
  switch (source?.case) {
    case "generated":
      return { from: "gallery", generationId: source.value.generationId, index: source.value.index };
    case "datasetImageId":
      return { from: "dataset", imageId: Number(source.value) };
    case "sha256":
      return { from: "file", sha256: source.value, name: "", preview: "", width: 0, height: 0 };
    case "data":
      return { from: "file", sha256: sha256(source.value), name: "", preview: "", width: 0, height: 0 };
    default:
      return null;
  }
}

export function inputsOf(settings: GenerationSettings | undefined): InputImage[] {
  const all = [
    settings?.imageToImage?.image,
    settings?.imageToImage?.mask,
    settings?.imageToVideo?.image,
    ...(settings?.controls.map(({ image }) => image) ?? []),
  ];
  return all.filter((each) => each !== undefined);
}

/** The same request with digests in the place of bytes: for a server that has had them. */
export function withDigests(request: GenerateRequest): GenerateRequest {
  const lean = clone(GenerateRequestSchema, request);
  for (const input of inputsOf(lean.settings)) {
    if (input.source.case === "data") input.source = { case: "sha256", value: sha256(input.source.value) };
  }
  return lean;
}

/** A request as the storage has it: small, whatever it begins with. */
export function leanText(request: GenerateRequest): string {
  return toJsonString(GenerateRequestSchema, withDigests(request));
}

/** A form of before the page was loaded anew, without the files whose bytes were never sent: nobody has them now. */
export function withoutUnsent(before: Draft, had: ReadonlySet<string>): Draft {
  const known = (picture: Picture | null) => (picture?.from === "file" && !had.has(picture.sha256) ? null : picture);
  const begin = known(before.begin);
  return {
    ...before,
    begin,
    mask: begin && known(before.mask),
    controls: before.controls.map((control) => ({ ...control, image: known(control.image) })),
  };
}
