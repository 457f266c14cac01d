// Where the gateway has what is shown and downloaded.
export const thumbnailUrl = (imageId: number) => `/api/images/${imageId}/content?variant=IMAGE_VARIANT_THUMBNAIL`;
export const originalUrl = (imageId: number) => `/api/images/${imageId}/content`;
export const exportUrl = (modelId: number, format: string) => `/api/models/${modelId}/export?format=EXPORT_FORMAT_${format}`;
export const sampleUrl = (jobId: string, sha256: string) => `/api/training/${jobId}/samples/${sha256}`;
export const sheetUrl = (jobId: string) => `/api/training/${jobId}/sheet`;
export const pictureUrl = (generationId: string, index: number) => `/api/generations/${generationId}/images/${index}`;
