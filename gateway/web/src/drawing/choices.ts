import { type Model, ModelCategory, type ModelFamily, ModelType, WeightsLayout } from "../gen/atelier/catalog/v1/model_pb";

/** The models that can draw here, base models first, trained ones newest first. */
export function drawable(
  models: readonly Model[],
  families: readonly ModelFamily[],
  clipFamilies: readonly ModelFamily[] = [],
): { bases: Model[]; trained: Model[] } {
  const able = models.filter(
    (model) =>
      model.isActive &&
      model.type !== ModelType.CONTROLNET && // steers others, and draws nothing itself
      (drawsClips(model) ? clipFamilies : families).includes(model.family),
  );
  return {
    bases: able.filter((model) => model.type === ModelType.BASE_MODEL),
    trained: able.filter((model) => model.type !== ModelType.BASE_MODEL).toSorted((a, b) => b.id - a.id),
  };
}

/** Two models of one name are told apart by their ids. */
export function modelLabels(models: readonly Model[]): Map<number, string> {
  const times = new Map<string, number>();
  for (const { name } of models) times.set(name, (times.get(name) ?? 0) + 1);
  return new Map(models.map(({ id, name }) => [id, (times.get(name) ?? 0) > 1 ? `${name} (${id})` : name]));
}

export function isLora(model: Model | undefined): boolean {
  return model?.layout === WeightsLayout.LORA;
}

export function drawsClips(model: Model | undefined): boolean {
  return model?.category === ModelCategory.VIDEO;
}

/** LoRAs that fit beside `model`: of the same base, and not the model itself. */
export function fittingLoras(model: Model | undefined, models: readonly Model[]): Model[] {
  if (!model) return [];
  const base = isLora(model) ? model.baseModelId : model.id;
  return models.filter((each) => isLora(each) && each.isActive && each.baseModelId === base && each.id !== model.id);
}

/** ControlNets that steer `model`: of its family, where this deployment loads them for it. */
export function fittingControls(model: Model | undefined, models: readonly Model[], families: readonly ModelFamily[]): Model[] {
  if (!model || !families.includes(model.family)) return [];
  return models.filter((each) => each.type === ModelType.CONTROLNET && each.isActive && each.family === model.family);
}
