import { Checkbox } from "@mantine/core";
import { useElementSize, useMergedRef } from "@mantine/hooks";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { memo, useEffect, useRef, useState } from "react";
import { thumbnailUrl } from "../api/urls";
import type { Image } from "../gen/atelier/catalog/v1/dataset_pb";
import { useSpeech } from "../i18n";
import { isClip, seconds } from "./clips";
import classes from "./ImageGrid.module.css";

const GAP = 12;
const CAPTION_HEIGHT = 44;
const WANTED_WIDTH = 170;

interface ImageGridProps {
  images: readonly Image[];
  /** Images there are, loaded or not: the grid is as tall as all of them. */
  total: number;
  selected: ReadonlySet<number>;
  onSelect: (id: number, on: boolean) => void;
  onOpen: (index: number) => void;
  /** Asks for more images when places come into view that have none yet. */
  onNeedMore: () => void;
}

/** Thumbnails with captions. Only the rows in view are in the page, so thousands scroll like ten. */
export function ImageGrid({ images, total, selected, onSelect, onOpen, onNeedMore }: ImageGridProps) {
  const { ref, width } = useElementSize<HTMLDivElement>();
  const list = useRef<HTMLDivElement | null>(null);
  const refs = useMergedRef(ref, list);
  const [top, setTop] = useState(0);
  const columns = Math.max(2, Math.floor((width + GAP) / (WANTED_WIDTH + GAP)));
  const tile = Math.max(0, (width - GAP * (columns - 1)) / columns);
  const rows = useWindowVirtualizer({
    count: Math.ceil(total / columns),
    estimateSize: () => tile + CAPTION_HEIGHT + GAP,
    overscan: 3,
    scrollMargin: top,
  });
  useEffect(() => rows.measure(), [rows, tile]);
  // What lies above (uploads, messages) grows and shrinks.
  useEffect(() => {
    const element = list.current;
    if (!element) return;
    const place = () => setTop(Math.round(element.getBoundingClientRect().top + window.scrollY));
    place();
    const observer = new ResizeObserver(place);
    observer.observe(document.body);
    return () => observer.disconnect();
  }, []);
  const visible = rows.getVirtualItems();
  const last = ((visible.at(-1)?.index ?? 0) + 1) * columns;
  useEffect(() => {
    if (last > images.length && images.length < total) onNeedMore();
  }, [last, images.length, total, onNeedMore]);
  return (
    <div
      ref={refs}
      className={classes.grid}
      style={{ height: rows.getTotalSize() }}
      data-testid="image-grid"
    >
      {width > 0 &&
        visible.map((row) => (
          <div
            key={row.key}
            className={classes.row}
            style={{
              transform: `translateY(${row.start - top}px)`,
              gridTemplateColumns: `repeat(${columns}, ${tile}px)`,
              gap: GAP,
            }}
          >
            {Array.from({ length: Math.min(columns, total - row.index * columns) }, (_, column) => {
              const index = row.index * columns + column;
              const image = images[index];
              return image ? (
                <Tile
                  key={image.id}
                  image={image}
                  index={index}
                  side={tile}
                  selected={selected.has(image.id)}
                  onSelect={onSelect}
                  onOpen={onOpen}
                />
              ) : (
                <div key={`place-${index}`} className={classes.place} style={{ height: tile }} />
              );
            })}
          </div>
        ))}
    </div>
  );
}

interface TileProps {
  image: Image;
  index: number;
  side: number;
  selected: boolean;
  onSelect: (id: number, on: boolean) => void;
  onOpen: (index: number) => void;
}

const Tile = memo(function Tile({ image, index, side, selected, onSelect, onOpen }: TileProps) {
  const { words, format } = useSpeech();
  return (
    <div className={classes.tile} data-selected={selected || undefined}>
      <button
        type="button"
        className={classes.open}
        onClick={() => onOpen(index)}
        aria-label={words.images.open(image.filename)}
      >
        <img src={thumbnailUrl(image.id)} alt="" width={side} height={side} decoding="async" className={classes.picture} />
      </button>
      <Checkbox
        className={classes.check}
        checked={selected}
        onChange={(event) => onSelect(image.id, event.currentTarget.checked)}
        aria-label={words.images.select(image.filename)}
      />
      {isClip(image) && <span className={classes.length}>{words.images.seconds(format.decimal(seconds(image)))}</span>}
      <div className={classes.caption} title={image.caption || undefined} data-empty={image.caption ? undefined : true}>
        {image.caption || words.images.noCaption}
      </div>
    </div>
  );
});
