import { useQuery } from "@connectrpc/connect-query";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Dataset } from "../gen/atelier/catalog/v1/dataset_pb";
import type { Model } from "../gen/atelier/catalog/v1/model_pb";

/** All datasets and models, newest state, for choosing among them and for naming what jobs point at. */
export function useDatasets(): { datasets: readonly Dataset[]; isSuccess: boolean; error: unknown } {
  const { data, isSuccess, error } = useQuery(CatalogService.method.listDatasets, { pageSize: 1000 });
  return { datasets: data?.datasets ?? [], isSuccess, error };
}

export function useModels(): { models: readonly Model[]; isSuccess: boolean; error: unknown; refetch: () => void } {
  const { data, isSuccess, error, refetch } = useQuery(
    CatalogService.method.listModels,
    { pageSize: 1000 },
    { refetchOnMount: "always" },
  );
  return { models: data?.models ?? [], isSuccess, error, refetch: () => void refetch() };
}
