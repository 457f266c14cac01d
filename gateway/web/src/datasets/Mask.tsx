import { createClient } from "@connectrpc/connect";
import { useMutation } from "@connectrpc/connect-query";
import { Button, FileButton, Group, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { notifyFailure } from "../api/Failed";
import { transport } from "../api/transport";
import { CatalogService, ImageVariant } from "../gen/atelier/catalog/v1/catalog_service_pb";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import classes from "./ImageViewer.module.css";
import { contentOf } from "./useUploads";

const catalog = createClient(CatalogService, transport);

/** An address of an image's mask for as long as it is shown; empty where it has none. Another mask may come under the same id. */
function useMaskUrl({ id, maskSha256 }: Image): string {
  const [url, setUrl] = useState("");
  useEffect(() => {
    if (!maskSha256) return;
    const stopper = new AbortController();
    let made = "";
    catalog.downloadImage({ imageId: id, variant: ImageVariant.MASK }, { signal: stopper.signal }).then(
      ({ content }) => {
        made = URL.createObjectURL(new Blob([new Uint8Array(content?.data ?? [])], { type: "image/png" }));
        setUrl(made);
      },
      () => undefined, // the page has been left, or it is gone: the buttons say what can be done
    );
    return () => {
      stopper.abort();
      setUrl("");
      if (made) URL.revokeObjectURL(made);
    };
  }, [id, maskSha256]);
  return url;
}

/** What of a picture counts in training with a masked loss: shown, given, taken away. */
export function Mask({ image, onChanged }: { image: Image; onChanged: (image: Image) => void }) {
  const { words } = useSpeech();
  const url = useMaskUrl(image);
  const give = useMutation(CatalogService.method.setImageMask);
  const clear = useMutation(CatalogService.method.clearImageMask);
  const changed = async (answer: Promise<{ image?: Image | undefined }>) => {
    try {
      const { image: masked } = await answer;
      if (masked) onChanged(masked);
    } catch (error) {
      notifyFailure(error, words);
    }
  };
  const set = async (file: File) => give.mutateAsync({ imageId: image.id, content: await contentOf(file) });
  return (
    <Group gap="sm" data-testid="mask">
      {url && <img src={url} alt={words.images.mask} className={classes.mask} />}
      <div>
        <Text size="sm" fw={500}>
          {words.images.mask}
        </Text>
        <Text size="xs" c="dimmed">
          {words.images.maskHint}
        </Text>
      </div>
      <Group gap="xs" ml="auto">
        <FileButton accept="image/jpeg,image/png,image/webp" onChange={(file) => file && void changed(set(file))}>
          {(props) => (
            <Button {...props} size="xs" variant="default" loading={give.isPending}>
              {image.maskSha256 ? words.images.maskReplace : words.images.maskGive}
            </Button>
          )}
        </FileButton>
        {image.maskSha256 && (
          <Button
            size="xs"
            variant="subtle"
            color="red"
            loading={clear.isPending}
            onClick={() => void changed(clear.mutateAsync({ imageId: image.id }))}
          >
            {words.images.maskClear}
          </Button>
        )}
      </Group>
    </Group>
  );
}
