import { createClient } from "@connectrpc/connect";
import { useQuery } from "@connectrpc/connect-query";
import { Anchor, Badge, Button, Table, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { Link } from "wouter";
import { Failed, notifyFailure } from "../api/Failed";
import { transport } from "../api/transport";
import { TrainerService } from "../gen/atelier/trainer/v1/trainer_service_pb";
import { useSpeech } from "../i18n";
import classes from "./JobPage.module.css";

const trainer = createClient(TrainerService, transport);

/**
 * The checkpoints that the server keeps, newest first: the latest, the best and the promoted ones. `made` counts those that
 * the job has told of: with each, the list is asked for again.
 */
export function Checkpoints({ jobId, made }: { jobId: string; made: number }) {
  const { words, format } = useSpeech();
  const { data, error, refetch } = useQuery(TrainerService.method.listCheckpoints, { jobId }, { refetchOnMount: "always" });
  const [busy, setBusy] = useState(0);
  // oxlint-disable-next-line react/exhaustive-effect-dependencies -- a new one changes the list
  useEffect(() => void refetch(), [made, refetch]);
  const promote = async (step: number) => {
    setBusy(step);
    try {
      await trainer.promoteCheckpoint({ jobId, step });
      await refetch();
    } catch (failed) {
      notifyFailure(failed, words);
    } finally {
      setBusy(0);
    }
  };
  const kept = (data?.checkpoints ?? []).toReversed();
  if (error && kept.length === 0) return <Failed error={error} retry={() => void refetch()} />;
  if (kept.length === 0) return <Text c="dimmed">{words.training.noCheckpoints}</Text>;
  const validated = kept.some((checkpoint) => checkpoint.validationLoss !== undefined);
  return (
    <div className={classes.table}>
      <Table>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{words.training.step}</Table.Th>
            <Table.Th>{words.training.lossCurve}</Table.Th>
            {validated && <Table.Th>{words.training.validation}</Table.Th>}
            <Table.Th>{words.common.created}</Table.Th>
            <Table.Th>{words.training.model}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {kept.map((checkpoint) => (
            <Table.Tr key={checkpoint.step}>
              <Table.Td>{format.number(checkpoint.step)}</Table.Td>
              <Table.Td>{format.decimal(checkpoint.smoothedLoss)}</Table.Td>
              {validated && (
                <Table.Td>
                  {checkpoint.validationLoss !== undefined && format.decimal(checkpoint.validationLoss)}{" "}
                  {checkpoint.isBest && (
                    <Badge size="xs" color="green" variant="light">
                      {words.training.best}
                    </Badge>
                  )}
                </Table.Td>
              )}
              <Table.Td>{format.date(checkpoint.createdAt)}</Table.Td>
              <Table.Td>
                {checkpoint.modelId === undefined ? (
                  <Button
                    size="compact-xs"
                    variant="default"
                    loading={busy === checkpoint.step}
                    aria-label={words.training.promoteStep(checkpoint.step)}
                    onClick={() => void promote(checkpoint.step)}
                  >
                    {words.training.promote}
                  </Button>
                ) : (
                  <Anchor component={Link} href={`/models/${checkpoint.modelId}`} underline="always">
                    {words.training.modelNumber(checkpoint.modelId)}
                  </Anchor>
                )}
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </div>
  );
}
