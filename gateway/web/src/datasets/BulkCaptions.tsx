import { createClient } from "@connectrpc/connect";
import { Button, Group, Modal, Progress, SegmentedControl, Stack, Text, TextInput } from "@mantine/core";
import { useEffect, useMemo, useState } from "react";
import { Failed } from "../api/Failed";
import { transport } from "../api/transport";
import { notify } from "../app/notify";
import { CatalogService } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { each } from "../lib/retry";
import { changes } from "./captions";
import classes from "./BulkCaptions.module.css";

const AT_ONCE = 4;
const SHOWN = 6;
const catalog = createClient(CatalogService, transport);

interface BulkCaptionsProps {
  datasetId: number;
  total: number;
  selected: ReadonlySet<number>;
  onClose: () => void;
  onChanged: () => void;
}

/** A prefix, or find and replace, for all captions of a dataset or those of the selected pictures. */
export function BulkCaptions({ datasetId, total, selected, onClose, onChanged }: BulkCaptionsProps) {
  const { words } = useSpeech();
  const [scope, setScope] = useState<"all" | "selected">(selected.size > 0 ? "selected" : "all");
  const [edit, setEdit] = useState({ prefix: "", find: "", replace: "" });
  const [images, setImages] = useState<readonly Image[] | null>(null);
  const [progress, setProgress] = useState<number | null>(null);
  const [error, setError] = useState<unknown>(null);
  useEffect(() => {
    const stop = new AbortController();
    everyImage(datasetId, stop.signal).then(setImages, (failure) => stop.signal.aborted || setError(failure));
    return () => stop.abort();
  }, [datasetId]);
  const planned = useMemo(
    () => changes((images ?? []).filter((image) => scope === "all" || selected.has(image.id)), edit),
    [images, scope, selected, edit],
  );
  const apply = async () => {
    let done = 0;
    setProgress(0);
    try {
      await each(planned, AT_ONCE, async ({ image, caption }) => {
        await catalog.updateImage({ imageId: image.id, caption });
        done += 1;
        setProgress(done);
      });
      notify(words, words.images.applied(done), "green");
      onClose();
    } catch (failure) {
      setError(failure);
      setProgress(null);
      // Some have changed: what is left is planned anew, as soon as it can be asked for.
      everyImage(datasetId).then(setImages, () => undefined);
    } finally {
      onChanged();
    }
  };
  const field = (name: keyof typeof edit) => ({
    value: edit[name],
    onChange: (event: { currentTarget: HTMLInputElement }) => setEdit({ ...edit, [name]: event.currentTarget.value }),
  });
  return (
    <Modal opened onClose={onClose} size="lg" title={words.images.bulkTitle} closeButtonProps={{ "aria-label": words.common.close }}>
      <Stack>
        {selected.size > 0 && (
          <SegmentedControl
            aria-label={words.images.scope}
            value={scope}
            onChange={(value) => setScope(value as typeof scope)}
            data={[
              { value: "selected", label: words.images.bulkScopeSelected(selected.size) },
              { value: "all", label: words.images.bulkScopeAll(total) },
            ]}
          />
        )}
        <TextInput label={words.images.prefix} placeholder={words.images.prefixHint} {...field("prefix")} data-autofocus />
        <Group grow align="flex-start">
          <TextInput label={words.images.find} {...field("find")} />
          <TextInput label={words.images.replace} {...field("replace")} />
        </Group>
        <div>
          <Text fw={600} size="sm" role="status">
            {planned.length ? words.images.changes(planned.length) : words.images.noChanges}
          </Text>
          <ul className={classes.list}>
            {planned.slice(0, SHOWN).map(({ image, caption }) => (
              <li key={image.id}>
                <del>{image.caption || words.images.noCaption}</del> → <ins>{caption}</ins>
              </li>
            ))}
            {planned.length > SHOWN && <li>{words.upload.filesMore(planned.length - SHOWN)}</li>}
          </ul>
        </div>
        {error !== null && <Failed error={error} />}
        {progress !== null && (
          <Progress value={(100 * progress) / planned.length} aria-label={words.images.applying(progress, planned.length)} />
        )}
        <Group justify="flex-end" gap="xs">
          <Button variant="default" onClick={onClose}>
            {words.common.cancel}
          </Button>
          <Button disabled={planned.length === 0} loading={progress !== null} onClick={() => void apply()}>
            {words.images.apply}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}

/** Every image of a dataset, however many pages they are. */
async function everyImage(datasetId: number, signal?: AbortSignal): Promise<Image[]> {
  const images: Image[] = [];
  let pageToken = "";
  do {
    // each page names the next
    const page = await catalog.listImages({ datasetId, pageSize: 1000, pageToken }, { signal });
    images.push(...page.images);
    pageToken = page.nextPageToken;
  } while (pageToken);
  return images;
}
