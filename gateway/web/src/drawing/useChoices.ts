import { useQuery } from "@connectrpc/connect-query";
import { useMemo } from "react";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useModels } from "../training/names";
import { drawable, modelLabels } from "./choices";

/** What can be chosen on the drawing pages: models, schedulers, limits and defaults. */
export function useChoices() {
  const capabilities = useQuery(GeneratorService.method.getGeneratorCapabilities, {});
  const schedulers = useQuery(GeneratorService.method.listSchedulers, {});
  const { models, isSuccess, error, refetch } = useModels();
  const able = capabilities.data;
  const { bases, trained, labels } = useMemo(
    () => ({ ...drawable(models, able?.families ?? []), labels: modelLabels(models) }),
    [models, able],
  );
  return {
    able,
    models,
    bases,
    trained,
    labels,
    schedulers: schedulers.data?.schedulers ?? [],
    ready: capabilities.isSuccess && schedulers.isSuccess && isSuccess,
    error: capabilities.error ?? schedulers.error ?? error,
    retry: () => {
      void capabilities.refetch();
      void schedulers.refetch();
      refetch();
    },
  };
}

export type Choices = ReturnType<typeof useChoices>;
