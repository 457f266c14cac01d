import { useQuery } from "@connectrpc/connect-query";
import { useMemo } from "react";
import { PictureFormat } from "../gen/atelier/generator/v1/generation_pb";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useModels } from "../training/names";
import { drawable, drawsClips, fittingControls, isLora, modelLabels } from "./choices";
import type { Draft } from "./draft";
import type { Kind } from "./request";

/** What can be chosen on the drawing pages: models, schedulers, limits and defaults. */
export function useChoices() {
  const capabilities = useQuery(GeneratorService.method.getGeneratorCapabilities, {});
  const schedulers = useQuery(GeneratorService.method.listSchedulers, {});
  const { models, isSuccess, error, refetch } = useModels();
  const able = capabilities.data;
  const { bases, trained, labels } = useMemo(
    () => ({ ...drawable(models, able?.families ?? [], able?.clipFamilies ?? []), labels: modelLabels(models) }),
    [models, able],
  );
  return {
    able,
    models,
    bases,
    trained,
    labels,
    model: (id: number) => models.find((each) => each.id === id),
    kind: (id: number): Kind => {
      const model = models.find((each) => each.id === id);
      return { lora: isLora(model), clips: drawsClips(model) };
    },
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

/** The model that the address names, else the one of before, else one whose weights are here. */
export function firstModel(choices: Choices, wanted: number, before: number | undefined): number {
  const able = [...choices.trained, ...choices.bases];
  const known = [wanted, before].find((id) => able.some((model) => model.id === id));
  return known ?? (able.find((model) => model.weights.case === "stored") ?? able[0])?.id ?? 0;
}

/** What changes with the model: LoRAs and ControlNets are of one base, and clips have a guidance and formats of their own. */
export function withModel(draft: Draft, modelId: number, choices: Choices): Partial<Draft> {
  const { clips } = choices.kind(modelId);
  const controls = fittingControls(choices.model(modelId), choices.models, choices.able?.controlFamilies ?? []);
  const changes: Partial<Draft> = {
    modelId,
    loras: [],
    controls: draft.controls.filter((control) => controls.some(({ id }) => id === control.modelId)),
  };
  if (clips === choices.kind(draft.modelId).clips) return changes;
  return { ...changes, guidance: clips ? "" : (choices.able?.defaults?.guidanceScale ?? ""), format: PictureFormat.UNSPECIFIED };
}
