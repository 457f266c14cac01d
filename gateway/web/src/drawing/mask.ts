// Where a mask is painted: plain geometry, without a canvas.

export interface Size {
  width: number;
  height: number;
}

export interface Point {
  x: number;
  y: number;
}

/** Pixels of the longer side that a mask is painted at; it is sent at its picture's own size. */
export const MOST = 1024;

/** `size` in the same shape with no side above `most`, and none below one pixel. */
export function within({ width, height }: Size, most = MOST): Size {
  const scale = Math.min(1, most / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** The place on a canvas of `size` under a pointer, whatever size the canvas is shown at. */
export function placeOf(pointer: { clientX: number; clientY: number }, shown: DOMRect, size: Size): Point {
  return {
    x: ((pointer.clientX - shown.left) / shown.width) * size.width,
    y: ((pointer.clientY - shown.top) / shown.height) * size.height,
  };
}

/** Pixels across of a brush of `percent` of the longer side; at least one. */
export function brushWidth(percent: number, { width, height }: Size): number {
  return Math.max(1, (percent / 100) * Math.max(width, height));
}

const STEPS: Record<string, Point> = {
  ArrowLeft: { x: -1, y: 0 },
  ArrowRight: { x: 1, y: 0 },
  ArrowUp: { x: 0, y: -1 },
  ArrowDown: { x: 0, y: 1 },
};

/** Where the brush is after a key: a step of `step` pixels, and never beyond the edge; null for keys that move nothing. */
export function moved({ x, y }: Point, key: string, step: number, { width, height }: Size): Point | null {
  const by = STEPS[key];
  if (!by) return null;
  return { x: Math.min(width, Math.max(0, x + by.x * step)), y: Math.min(height, Math.max(0, y + by.y * step)) };
}
