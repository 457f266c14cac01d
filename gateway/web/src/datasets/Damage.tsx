import { Alert, List, Text } from "@mantine/core";
import type { RefreshDatasetResponse } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";

/** The files that a recount found missing or changed; nothing where all are sound. */
export function Damage({ found, onClose }: { found: RefreshDatasetResponse; onClose: () => void }) {
  const { words } = useSpeech();
  if (found.missing.length + found.corrupt.length === 0) return null;
  const named = (title: string, images: readonly Image[]) =>
    images.length > 0 && (
      <>
        <Text size="sm">{title}</Text>
        <List size="sm">
          {images.slice(0, 20).map((image) => (
            <List.Item key={image.id}>{image.filename}</List.Item>
          ))}
          {images.length > 20 && <List.Item>{words.upload.filesMore(images.length - 20)}</List.Item>}
        </List>
      </>
    );
  return (
    <Alert
      color="orange"
      title={words.datasets.damaged}
      withCloseButton
      onClose={onClose}
      closeButtonLabel={words.common.close}
      role="alert"
    >
      {named(words.datasets.missing(found.missing.length), found.missing)}
      {named(words.datasets.corrupt(found.corrupt.length), found.corrupt)}
    </Alert>
  );
}
