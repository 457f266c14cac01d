import { createConnectQueryKey, useInfiniteQuery, useTransport } from "@connectrpc/connect-query";
import { type InfiniteData, useQueryClient } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import { CatalogService, type ListImagesResponse } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";

const PAGE = 200;
type Pages = InfiniteData<ListImagesResponse>;

/** A dataset's images as far as they were paged in, and how to change them here once the server has. */
export function useImages(datasetId: number) {
  const transport = useTransport();
  const queries = useQueryClient();
  const input = useMemo(() => ({ datasetId, pageSize: PAGE, pageToken: "" }), [datasetId]);
  const query = useInfiniteQuery(CatalogService.method.listImages, input, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const images = useMemo(() => query.data?.pages.flatMap((page) => page.images) ?? [], [query.data]);
  const total = Number(query.data?.pages.at(-1)?.totalSize ?? 0n);

  const patch = useCallback(
    (change: (images: Image[]) => Image[]) => {
      const key = createConnectQueryKey({
        schema: CatalogService.method.listImages,
        transport,
        input,
        pageParamKey: "pageToken",
        cardinality: "infinite",
      });
      queries.setQueryData<Pages>(key, (data) => {
        if (!data) return data;
        const pages = data.pages.map((page) => ({ ...page, images: change(page.images) }));
        const gone = BigInt(images.length - pages.reduce((sum, page) => sum + page.images.length, 0));
        return { ...data, pages: pages.map((page) => ({ ...page, totalSize: page.totalSize - gone })) } as Pages;
      });
    },
    [queries, transport, input, images.length],
  );
  const replace = useCallback(
    (changed: Image) => patch((page) => page.map((image) => (image.id === changed.id ? changed : image))),
    [patch],
  );
  const remove = useCallback(
    (ids: ReadonlySet<number>) => patch((page) => page.filter((image) => !ids.has(image.id))),
    [patch],
  );
  return { ...query, images, total, replace, remove };
}
