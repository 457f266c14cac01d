import { ActionIcon, Button, FileButton, Group, Input, Stack, Text } from "@mantine/core";
import { IconPhoto, IconX } from "@tabler/icons-react";
import { lazy, type ReactNode, Suspense, useId, useState } from "react";
import { useSpeech } from "../i18n";
import classes from "./Inputs.module.css";
import { MAX_BYTES, pictureFrom } from "./files";
import { type Picture, smallUrlOf } from "./inputs";

const PicturePicker = lazy(() => import("./PicturePicker"));

interface PictureFieldProps {
  label: string;
  description?: string;
  value: Picture | null;
  onChange: (picture: Picture | null) => void;
  error?: string | undefined;
  /** Beside the buttons, once there is a picture. */
  children?: ReactNode;
}

/** A picture to begin with: a file that is chosen or dropped, one of a dataset, or one that was drawn before. */
export function PictureField({ label, description, value, onChange, error, children }: PictureFieldProps) {
  const { words } = useSpeech();
  const t = words.inputs;
  const id = useId();
  const [picking, setPicking] = useState<"dataset" | "gallery" | null>(null);
  const [over, setOver] = useState(false);
  const [problem, setProblem] = useState("");
  const take = async (file: File | null | undefined) => {
    if (!file) return;
    if (file.size > MAX_BYTES) return setProblem(t.tooLarge);
    try {
      onChange(await pictureFrom(file, file.name));
      setProblem("");
    } catch {
      setProblem(t.unreadable);
    }
  };
  const set = (picture: Picture | null) => {
    setProblem("");
    onChange(picture);
  };
  return (
    <Input.Wrapper label={label} labelElement="div" labelProps={{ id }} description={description} error={problem || error}>
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-element-interactions -- the buttons do by keyboard what dropping does */}
      <div
        role="group"
        aria-labelledby={id}
        className={classes.field}
        data-over={over || undefined}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(event.dataTransfer.files[0]);
        }}
      >
        {value && (
          <Group wrap="nowrap" gap="sm">
            <Thumbnail picture={value} />
            <Text size="sm" className={classes.name}>
              {nameOf(value, t)}
            </Text>
            <ActionIcon variant="subtle" color="gray" ml="auto" onClick={() => set(null)} aria-label={t.remove(label)} title={t.remove(label)}>
              <IconX size={16} aria-hidden />
            </ActionIcon>
          </Group>
        )}
        <Group gap={6}>
          <FileButton accept="image/png,image/jpeg,image/webp" onChange={(file) => void take(file)}>
            {(props) => (
              <Button {...props} size="compact-sm" variant="default">
                {t.file}
              </Button>
            )}
          </FileButton>
          <Button size="compact-sm" variant="default" onClick={() => setPicking("dataset")}>
            {t.dataset}
          </Button>
          <Button size="compact-sm" variant="default" onClick={() => setPicking("gallery")}>
            {t.gallery}
          </Button>
        </Group>
        {value && children && <Stack gap="xs">{children}</Stack>}
      </div>
      {picking && (
        <Suspense>
          <PicturePicker
            from={picking}
            onClose={() => setPicking(null)}
            onPick={(picture) => {
              setPicking(null);
              set(picture);
            }}
          />
        </Suspense>
      )}
    </Input.Wrapper>
  );
}

export function Thumbnail({ picture }: { picture: Picture }) {
  const url = smallUrlOf(picture);
  return url ? (
    <img src={url} alt="" className={classes.thumbnail} />
  ) : (
    <span className={classes.thumbnail}>
      <IconPhoto size={24} stroke={1.2} aria-hidden />
    </span>
  );
}

function nameOf(picture: Picture, t: ReturnType<typeof useSpeech>["words"]["inputs"]): string {
  switch (picture.from) {
    case "file":
      return picture.name || t.sentBefore;
    case "gallery":
      return t.ofGallery(picture.index + 1);
    case "dataset":
      return t.ofDataset(picture.imageId);
  }
}
