import { Anchor, Badge, Button, Paper, ScrollArea, SegmentedControl, Skeleton, Table, Text, VisuallyHidden } from "@mantine/core";
import { IconCloudDownload } from "@tabler/icons-react";
import { useMemo, useState } from "react";
import { Link, useLocation } from "wouter";
import { Failed } from "../api/Failed";
import { Empty, Page } from "../app/Page";
import { type Model, ModelType, WeightsLayout } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";
import { useModels } from "../training/names";
import { PullForm } from "./PullForm";
import classes from "./Models.module.css";

export default function ModelsPage() {
  const { words } = useSpeech();
  const { models, isSuccess, error, refetch } = useModels();
  const [type, setType] = useState("0");
  const [pulling, setPulling] = useState(false);
  const [, go] = useLocation();
  const bases = models.filter((model) => model.layout !== WeightsLayout.LORA);
  const names = useMemo(() => new Map(models.map(({ id, name }) => [id, name])), [models]);
  const types = [ModelType.BASE_MODEL, ModelType.LORA, ModelType.DREAMBOOTH, ModelType.FULL].filter((each) =>
    models.some((model) => model.type === each),
  );
  const shown = models.filter((model) => type === "0" || String(model.type) === type).toSorted(newestFirst);
  return (
    <Page
      title={words.models.title}
      intro={words.models.intro}
      actions={
        bases.length > 0 && (
          <Button variant="default" leftSection={<IconCloudDownload size={16} aria-hidden />} onClick={() => setPulling(true)}>
            {words.models.pull}
          </Button>
        )
      }
    >
      {pulling && <PullForm bases={bases} onClose={() => setPulling(false)} onPulled={(id) => go(`/models/${id}`)} />}
      {error !== null && error !== undefined && <Failed error={error} retry={refetch} />}
      {!isSuccess && !error && <Skeleton height={200} />}
      {isSuccess && models.length === 0 && <Empty title={words.models.emptyTitle} hint={words.models.emptyHint} />}
      {types.length > 1 && (
        <ScrollArea type="never">
          <SegmentedControl
            aria-label={words.common.type}
            value={type}
            onChange={setType}
            data={[
              { value: "0", label: words.models.all },
              ...types.map((each) => ({ value: String(each), label: words.models.types[each] ?? "" })),
            ]}
          />
        </ScrollArea>
      )}
      {shown.length > 0 && (
        <Paper withBorder className={classes.scroll} tabIndex={0} role="region" aria-label={words.models.title}>
          <Table verticalSpacing="sm" horizontalSpacing="md" miw={640}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{words.common.name}</Table.Th>
                <Table.Th>{words.common.type}</Table.Th>
                <Table.Th>{words.models.family}</Table.Th>
                <Table.Th>{words.models.base}</Table.Th>
                <Table.Th>{words.models.size}</Table.Th>
                <Table.Th>
                  <VisuallyHidden>{words.models.state}</VisuallyHidden>
                </Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {shown.map((model) => (
                <Row key={model.id} model={model} base={names.get(model.baseModelId ?? 0)} />
              ))}
            </Table.Tbody>
          </Table>
        </Paper>
      )}
    </Page>
  );
}

/** Trained models before base models, the newest of them first. */
function newestFirst(a: Model, b: Model): number {
  const [first, second] = [a.type === ModelType.BASE_MODEL, b.type === ModelType.BASE_MODEL];
  if (first !== second) return first ? 1 : -1;
  return first ? a.id - b.id : b.id - a.id;
}

function Row({ model, base }: { model: Model; base: string | undefined }) {
  const { words, format } = useSpeech();
  return (
    <Table.Tr>
      <Table.Td className={classes.name}>
        <Anchor component={Link} href={`/models/${model.id}`} fw={600}>
          {model.name}
        </Anchor>
      </Table.Td>
      <Table.Td>{words.models.types[model.type]}</Table.Td>
      <Table.Td>{words.models.families[model.family]}</Table.Td>
      <Table.Td>{base ?? "–"}</Table.Td>
      <Table.Td>
        {model.weights.case === "hub" ? <Text size="sm" c="dimmed">{words.models.hub}</Text> : format.bytes(model.sizeBytes)}
      </Table.Td>
      <Table.Td>{!model.isActive && <Badge className={classes.inactive}>{words.models.inactive}</Badge>}</Table.Td>
    </Table.Tr>
  );
}
