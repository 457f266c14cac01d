import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Button, Group, Text } from "@mantine/core";
import { notifyFailure } from "../api/Failed";
import { GeneratorService } from "../gen/atelier/generator/v1/generator_service_pb";
import { useSpeech } from "../i18n";

const { listLoadedModels, loadModel, unloadModel } = GeneratorService.method;

/** Whether a model is in memory, and the buttons that bring it there before somebody waits for it, or make room. */
export function Memory({ modelId }: { modelId: number }) {
  const { words, format } = useSpeech();
  const t = words.models;
  const list = useQuery(listLoadedModels, {}, { refetchInterval: 15_000, refetchOnMount: "always" });
  const load = useMutation(loadModel);
  const unload = useMutation(unloadModel);
  const own = list.data?.models.find((each) => each.modelId === modelId);
  const there = own ?? list.data?.models.find(({ loraModelIds }) => loraModelIds.includes(modelId)); // a LoRA is on its base
  const changed = (answer: Promise<unknown>) =>
    answer.then(() => list.refetch()).catch((error: unknown) => notifyFailure(error, words));
  if (!list.isSuccess) return null;
  return (
    <Group justify="space-between" mt="md" data-testid="memory">
      <Text size="sm" c="dimmed" role="status">
        {there ? t.inMemory(format.bytes(there.memoryBytes)) : t.notInMemory}
      </Text>
      {own ? (
        <Button
          size="xs"
          variant="default"
          loading={unload.isPending}
          disabled={own.numDrawing > 0}
          onClick={() => void changed(unload.mutateAsync({ modelId }))}
        >
          {t.unload}
        </Button>
      ) : (
        !there && (
          <Button size="xs" variant="default" loading={load.isPending} onClick={() => void changed(load.mutateAsync({ modelId }))}>
            {t.load}
          </Button>
        )
      )}
    </Group>
  );
}
