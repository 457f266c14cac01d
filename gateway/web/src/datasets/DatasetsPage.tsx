import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Badge, Button, Card, Group, SimpleGrid, Skeleton, Text } from "@mantine/core";
import { IconPhoto, IconPlus } from "@tabler/icons-react";
import { useState } from "react";
import { Link, useLocation } from "wouter";
import { Failed } from "../api/Failed";
import { thumbnailUrl } from "../api/urls";
import { More } from "../app/More";
import { Empty, Page } from "../app/Page";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import { type Dataset, DatasetType } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { DatasetForm } from "./DatasetForm";
import classes from "./DatasetsPage.module.css";

export default function DatasetsPage() {
  const { words } = useSpeech();
  const [, go] = useLocation();
  const [creating, setCreating] = useState(false);
  const list = useInfiniteQuery(CatalogService.method.listDatasets, { pageSize: 60, pageToken: "" }, {
    pageParamKey: "pageToken",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchOnMount: "always",
  });
  const datasets = list.data?.pages.flatMap((page) => page.datasets) ?? [];
  const button = (
    <Button leftSection={<IconPlus size={16} aria-hidden />} onClick={() => setCreating(true)}>
      {words.datasets.createNew}
    </Button>
  );
  return (
    <Page title={words.datasets.title} intro={words.datasets.intro} actions={datasets.length > 0 && button}>
      {list.error && <Failed error={list.error} retry={() => void list.refetch()} />}
      {list.isPending && (
        <SimpleGrid cols={{ base: 1, xs: 2, md: 3, lg: 4 }}>
          {[1, 2, 3].map((each) => (
            <Skeleton key={each} height={240} />
          ))}
        </SimpleGrid>
      )}
      {list.isSuccess && datasets.length === 0 && (
        <Empty title={words.datasets.emptyTitle} hint={words.datasets.emptyHint} action={button} />
      )}
      <SimpleGrid cols={{ base: 1, xs: 2, md: 3, lg: 4 }}>
        {datasets.map((dataset) => (
          <DatasetCard key={dataset.id} dataset={dataset} />
        ))}
      </SimpleGrid>
      <More list={list} />
      {creating && (
        <DatasetForm onClose={() => setCreating(false)} onSaved={(dataset) => go(`/datasets/${dataset.id}`)} />
      )}
    </Page>
  );
}

function DatasetCard({ dataset }: { dataset: Dataset }) {
  const { words, format } = useSpeech();
  return (
    <Card component={Link} href={`/datasets/${dataset.id}`} withBorder padding="sm" className={classes.card}>
      <Card.Section className={classes.cover}>
        {dataset.coverImageId === undefined ? (
          <div className={classes.none}>
            <IconPhoto size={36} stroke={1.2} aria-hidden />
            <Text size="sm">{words.datasets.noCover}</Text>
          </div>
        ) : (
          <img src={thumbnailUrl(dataset.coverImageId)} alt="" loading="lazy" className={classes.picture} />
        )}
      </Card.Section>
      <Group justify="space-between" mt="sm" wrap="nowrap">
        <Text fw={600} truncate>
          {dataset.name}
        </Text>
        {dataset.type === DatasetType.VIDEO && <Badge variant="default">{words.datasets.typeVideo}</Badge>}
      </Group>
      <Text size="sm" c="dimmed">
        {words.common.images(Number(dataset.numItems))} · {format.bytes(dataset.sizeBytes)}
      </Text>
      {dataset.description && (
        <Text size="sm" lineClamp={2}>
          {dataset.description}
        </Text>
      )}
    </Card>
  );
}
