import { Button, Group, Kbd, Modal, SegmentedControl, Slider, Stack, Text } from "@mantine/core";
import { type KeyboardEvent, type PointerEvent, useEffect, useId, useRef, useState } from "react";
import { useSpeech } from "../i18n";
import { pictureFrom } from "./files";
import classes from "./Inputs.module.css";
import { isHeld, type Picture, urlOf } from "./inputs";
import { brushWidth, moved, placeOf, type Point, type Size, within } from "./mask";

const PAINT = "#ff2fb3"; // seldom in a picture

interface MaskPainterProps {
  picture: Picture;
  /** The one of before, to go on with. */
  mask: Picture | null;
  /** Null where nothing is painted. */
  onDone: (mask: Picture | null) => void;
  onClose: () => void;
}

/** Paints over a picture what is to be drawn anew, with a mouse, a finger, a pen or the keyboard. */
export default function MaskPainter({ picture, mask, onDone, onClose }: MaskPainterProps) {
  const { words } = useSpeech();
  const t = words.mask;
  const hint = useId();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [full, setFull] = useState<Size | null>(null);
  const size = full && within(full);
  const [percent, setPercent] = useState(10);
  const [erases, setErases] = useState(false);
  const [brush, setBrush] = useState<Point | null>(null);
  const last = useRef<Point | null>(null); // where a stroke goes on from, while there is one
  const [failed, setFailed] = useState(false);

  const stroke = (from: Point, to: Point) => {
    const context = canvas.current?.getContext("2d");
    if (!context || !size) return;
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.strokeStyle = PAINT;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = brushWidth(percent, size);
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
  };
  const at = (event: PointerEvent<HTMLCanvasElement>) =>
    placeOf(event, event.currentTarget.getBoundingClientRect(), size ?? { width: 1, height: 1 });
  const release = () => {
    last.current = null;
  };
  const press = (event: KeyboardEvent) => {
    if (!size) return;
    const here = brush ?? { x: size.width / 2, y: size.height / 2 };
    const next = moved(here, event.key, brushWidth(percent, size) / 2, size);
    if (next) {
      if (event.shiftKey) stroke(here, next);
      setBrush(next);
    } else if (event.key === " ") {
      stroke(here, here);
      setBrush(here);
    } else if (event.key === "+" || event.key === "-") {
      setPercent((before) => Math.min(50, Math.max(1, before + (event.key === "+" ? 1 : -1))));
    } else return;
    event.preventDefault();
  };
  const fill = (operation: GlobalCompositeOperation) => {
    const context = canvas.current?.getContext("2d");
    if (!context || !size) return;
    context.globalCompositeOperation = operation;
    context.fillStyle = PAINT;
    context.fillRect(0, 0, size.width, size.height);
  };
  const done = async () => {
    if (!canvas.current || !full) return;
    const blob = await maskOf(canvas.current, full);
    onDone(blob && (await pictureFrom(blob, t.name)));
    onClose();
  };

  useEffect(() => {
    if (full) canvas.current?.focus({ preventScroll: true }); // it is there once the picture is
  }, [full]);
  useEffect(() => {
    if (full && mask && isHeld(mask) && canvas.current) void restore(canvas.current, urlOf(mask));
  }, [full, mask]);

  return (
    <Modal opened onClose={onClose} size="lg" title={t.title} closeButtonProps={{ "aria-label": words.common.close }}>
      <Stack gap="sm">
        <Text size="sm" c="dimmed" id={hint}>
          {t.hint}
        </Text>
        <div className={classes.easel} style={full ? { aspectRatio: `${full.width} / ${full.height}`, width: widthOf(full) } : undefined}>
          <img
            src={urlOf(picture)}
            alt=""
            draggable={false}
            className={classes.ground}
            onError={() => setFailed(true)}
            onLoad={({ currentTarget }) => setFull(sizeOf(picture, currentTarget))}
          />
          {size && (
            <canvas
              ref={canvas}
              width={size.width}
              height={size.height}
              className={classes.canvas}
              tabIndex={0}
              // oxlint-disable-next-line jsx-a11y/no-interactive-element-to-noninteractive-role -- arrows and Space paint on it
              role="application"
              aria-label={t.canvas}
              aria-describedby={hint}
              onKeyDown={press}
              onPointerDown={(event) => {
                if (event.button !== 0) return;
                event.currentTarget.setPointerCapture(event.pointerId);
                const here = at(event);
                last.current = here;
                stroke(here, here);
                setBrush(here);
              }}
              onPointerMove={(event) => {
                const here = at(event);
                if (last.current) {
                  stroke(last.current, here);
                  last.current = here;
                }
                setBrush(here);
              }}
              onPointerUp={release}
              onPointerCancel={release}
              onPointerLeave={() => last.current || setBrush(null)}
            />
          )}
          {size && brush && <Brush at={brush} size={size} width={brushWidth(percent, size)} />}
        </div>
        {failed && <Text c="red">{t.noPicture}</Text>}
        <Group justify="space-between">
          <SegmentedControl
            aria-label={t.tool}
            value={erases ? "erase" : "paint"}
            onChange={(tool) => setErases(tool === "erase")}
            data={[
              { value: "paint", label: t.paint },
              { value: "erase", label: t.erase },
            ]}
          />
          <Group gap="xs">
            <Button variant="default" onClick={() => fill("xor")} disabled={!size}>
              {t.invert}
            </Button>
            <Button variant="default" onClick={() => fill("destination-out")} disabled={!size}>
              {t.clear}
            </Button>
          </Group>
        </Group>
        <div>
          <Text size="sm" fw={500}>
            {t.size}
          </Text>
          <Slider thumbLabel={t.size} min={1} max={50} value={percent} onChange={setPercent} label={(value) => `${value} %`} />
        </div>
        <Text size="xs" c="dimmed" visibleFrom="xs">
          <Kbd size="xs">←↑↓→</Kbd> {t.keyMove} · <Kbd size="xs">{t.space}</Kbd> {t.keyDab} · <Kbd size="xs">⇧ ←↑↓→</Kbd> {t.keyStroke} ·{" "}
          <Kbd size="xs">+ −</Kbd> {t.keySize}
        </Text>
        <Group justify="flex-end" gap="xs">
          <Button variant="default" onClick={onClose}>
            {words.common.cancel}
          </Button>
          <Button onClick={() => void done()} disabled={!size}>
            {t.done}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}

/** Where the brush is, and how wide. */
function Brush({ at, size, width }: { at: Point; size: Size; width: number }) {
  return (
    <div
      className={classes.brush}
      style={{
        left: `${(100 * at.x) / size.width}%`,
        top: `${(100 * at.y) / size.height}%`,
        width: `${(100 * width) / size.width}%`,
        aspectRatio: 1,
      }}
    />
  );
}

/** The picture's own size; what is known of a file before what its small picture says. */
function sizeOf(picture: Picture, image: HTMLImageElement): Size {
  if (picture.from === "file" && picture.width > 0) return { width: picture.width, height: picture.height };
  return { width: image.naturalWidth, height: image.naturalHeight };
}

/** As wide as there is room for, and so that all of it can be seen at once. */
function widthOf({ width, height }: Size): string {
  return `min(100%, calc(46dvh * ${width / height}))`;
}

/** White where it is painted and black elsewhere, as a PNG of the picture's own size; null where nothing is painted. */
async function maskOf(painted: HTMLCanvasElement, { width, height }: Size): Promise<Blob | null> {
  const pixels = painted.getContext("2d")?.getImageData(0, 0, painted.width, painted.height).data ?? [];
  if (!pixels.some((value, place) => place % 4 === 3 && value >= 128)) return null;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return null;
  context.drawImage(painted, 0, 0, width, height);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Paints what a mask has white. */
async function restore(canvas: HTMLCanvasElement, url: string): Promise<void> {
  const image = new Image();
  image.src = url;
  await image.decode();
  const context = canvas.getContext("2d");
  if (!context) return;
  context.globalCompositeOperation = "source-over";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let place = 0; place < pixels.data.length; place += 4) pixels.data[place + 3] = pixels.data[place] ?? 0; // white is there
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = PAINT;
  context.fillRect(0, 0, canvas.width, canvas.height);
}
