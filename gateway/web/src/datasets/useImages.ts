import { createConnectQueryKey, useInfiniteQuery, useTransport } from "@connectrpc/connect-query";
import { type InfiniteData, useQueryClient } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import { CatalogService, type ListImagesResponse } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";

const PAGE = 200;
type Pages = InfiniteData<ListImagesResponse>;

/** The pages with each image as `change` makes it, without those it makes null. */
function withPages(data: Pages, change: (image: Image) => Image | null): Pages {
  const pages = data.pages.map((page) => ({ ...page, images: page.images.flatMap((image) => change(image) ?? []) }));
  const size = (all: Pages["pages"]) => all.reduce((sum, page) => sum + page.images.length, 0);
  const gone = BigInt(size(data.pages) - size(pages));
  return { ...data, pages: pages.map((page) => ({ ...page, totalSize: page.totalSize - gone })) };
}

/** The pages once `landed` are there too: in the last one, if it is loaded, and counted anyway. Those known change nothing. */
export function withLanded(data: Pages, landed: readonly Image[]): Pages {
  const known = new Set(data.pages.flatMap((page) => page.images.map(({ id }) => id)));
  const fresh = landed.filter(({ id }) => !known.has(id));
  const last = data.pages.at(-1);
  if (!last || fresh.length === 0) return data;
  const whole = last.nextPageToken === "";
  const images = whole ? [...last.images, ...fresh].toSorted((a, b) => a.id - b.id) : last.images;
  const totalSize = last.totalSize + BigInt(fresh.length);
  return { ...data, pages: [...data.pages.slice(0, -1), { ...last, images, totalSize }] };
}

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
    (change: (data: Pages) => Pages) => {
      const key = createConnectQueryKey({
        schema: CatalogService.method.listImages,
        transport,
        input,
        pageParamKey: "pageToken",
        cardinality: "infinite",
      });
      queries.setQueryData<Pages>(key, (data) => data && change(data));
    },
    [queries, transport, input],
  );
  const replace = useCallback(
    (changed: Image) => patch((data) => withPages(data, (image) => (image.id === changed.id ? changed : image))),
    [patch],
  );
  const recaption = useCallback(
    (imageId: number, caption: string) => patch((data) => withPages(data, (image) => (image.id === imageId ? { ...image, caption } : image))),
    [patch],
  );
  const remove = useCallback(
    (ids: ReadonlySet<number>) => patch((data) => withPages(data, (image) => (ids.has(image.id) ? null : image))),
    [patch],
  );
  const add = useCallback((landed: readonly Image[]) => patch((data) => withLanded(data, landed)), [patch]);
  return { ...query, images, total, replace, recaption, remove, add };
}
