import { createGrpcWebTransport } from "@connectrpc/connect-web";

/** Every call goes to where the page came from: the edge serves both. */
export const transport = createGrpcWebTransport({ baseUrl: location.origin });

export const thumbnailUrl = (imageId: number) => `/api/images/${imageId}/content?variant=IMAGE_VARIANT_THUMBNAIL`;
export const originalUrl = (imageId: number) => `/api/images/${imageId}/content`;
export const sampleUrl = (jobId: string, sha256: string) => `/api/training/${jobId}/samples/${sha256}`;
export const pictureUrl = (generationId: string, index: number) => `/api/generations/${generationId}/images/${index}`;
