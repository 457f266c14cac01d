import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { useCallback, useEffect, useRef, useState } from "react";
import { failureOf, isTransient } from "../api/errors";
import { fetchWithProgress } from "../api/progress";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { backoff, each, wait } from "../lib/retry";
import { newId } from "../lib/identity";
import type { Picture } from "./files";
import { outcome, type Upload } from "./uploads";

const AT_ONCE = 3;
const TRIES = 6;

interface Sending {
  upload: Upload;
  picture: Picture;
}

/** The uploads into one dataset since the page was opened. `onLanded` is told now and then which have landed. */
export function useUploads(datasetId: number, onLanded: (images: readonly Image[]) => void) {
  const [uploads, setUploads] = useState<readonly Upload[]>([]);
  const pictures = useRef(new Map<string, Picture>());
  const stopper = useRef(new AbortController());
  const landed = useRef(onLanded);
  useEffect(() => {
    landed.current = onLanded;
  });
  useEffect(() => {
    stopper.current = new AbortController();
    return () => stopper.current.abort();
  }, []);

  const change = useCallback((id: string, changes: Partial<Upload>) => {
    setUploads((all) => all.map((upload) => (upload.id === id ? { ...upload, ...changes } : upload)));
  }, []);

  const run = useCallback(
    async (sendings: readonly Sending[]) => {
      const { signal } = stopper.current;
      let told = Date.now();
      let images: Image[] = [];
      const tell = () => {
        told = Date.now();
        landed.current(images);
        images = [];
      };
      const send = async ({ upload, picture }: Sending) => {
        change(upload.id, { state: "sending", share: 0, reason: "", message: "" });
        const { image, ...result } = await sendPicture(datasetId, upload.id, picture, signal, (share) =>
          change(upload.id, { share, state: share < 1 ? "sending" : "checking" }),
        );
        change(upload.id, result);
        if (image) images.push(image);
        if (Date.now() - told > 1500) tell();
      };
      await each(sendings, AT_ONCE, send, signal);
      tell();
    },
    [datasetId, change],
  );

  const add = useCallback(
    (chosen: readonly Picture[]) => {
      const sendings = chosen.map((picture): Sending => {
        const id = newId();
        pictures.current.set(id, picture);
        return { picture, upload: { id, name: picture.file.name, state: "waiting", share: 0, reason: "", message: "" } };
      });
      setUploads((all) => [...all, ...sendings.map(({ upload }) => upload)]);
      void run(sendings);
    },
    [run],
  );

  const retry = useCallback(() => {
    const again = uploads.filter((upload) => upload.state === "failed");
    if (stopper.current.signal.aborted) stopper.current = new AbortController();
    void run(again.map((upload) => ({ upload, picture: pictures.current.get(upload.id) as Picture })));
  }, [uploads, run]);

  const stop = useCallback((words: string) => {
    stopper.current.abort();
    setUploads((all) =>
      all.map((upload) => (upload.state === "waiting" ? { ...upload, state: "failed", message: words } : upload)),
    );
    stopper.current = new AbortController();
  }, []);

  const clear = useCallback(() => {
    pictures.current.clear();
    setUploads([]);
  }, []);

  return { uploads, add, retry, stop, clear };
}

/** A file as the contract carries it. */
export async function contentOf(file: File): Promise<{ contentType: string; data: Uint8Array<ArrayBuffer> }> {
  return { contentType: file.type || "application/octet-stream", data: new Uint8Array(await file.arrayBuffer()) };
}

/** Sends one file, again for as long as the way to the server is lost, and tells what has come of it. */
async function sendPicture(
  datasetId: number,
  requestId: string,
  picture: Picture,
  signal: AbortSignal,
  onProgress: (share: number) => void,
): Promise<Partial<Upload> & { image?: Image | undefined }> {
  const transport = createGrpcWebTransport({ baseUrl: location.origin, fetch: fetchWithProgress(onProgress) });
  const catalog = createClient(CatalogService, transport);
  const { file, caption, mask } = picture;
  for (let attempt = 1; ; attempt += 1) {
    try {
      // tries follow one another
      const content = await contentOf(file);
      const { image } = await catalog.uploadImage({ datasetId, requestId, filename: file.name, caption, content }, { signal });
      if (!mask || !image) return { state: "done", share: 1, image };
      const masked = await catalog.setImageMask({ imageId: image.id, content: await contentOf(mask) }, { signal });
      return { state: "done", share: 1, image: masked.image };
    } catch (error) {
      if (signal.aborted || attempt === TRIES || !isTransient(error)) return outcome(failureOf(error));
      await wait(backoff(attempt), signal);
    }
  }
}
