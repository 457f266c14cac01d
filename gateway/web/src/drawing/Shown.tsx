import { useReducedMotion } from "@mantine/hooks";
import { useEffect, useState } from "react";

interface ShownProps {
  url: string;
  contentType: string;
  alt: string;
  className?: string | undefined;
  width?: number;
  height?: number;
  lazy?: boolean;
  /** A clip is played, with its controls; otherwise its first frame is shown. */
  plays?: boolean;
  final?: boolean;
}

/** A picture, or a clip in the element that plays it. */
export function Shown({ url, contentType, alt, className, width, height, lazy, plays = false, final }: ShownProps) {
  const shape = width && height ? { width, height, style: { height: "auto" } } : {};
  const common = { className, "data-final": final || undefined, ...shape };
  if (contentType.startsWith("video/")) return <Clip url={url} alt={alt} plays={plays} {...common} />;
  return <img src={url} alt={alt} loading={lazy ? "lazy" : undefined} {...common} />;
}

/** Fetched whole: clips are small, and not every browser plays what it cannot ask for in pieces. */
function Clip({ url, alt, plays, ...common }: { url: string; alt: string; plays: boolean; className?: string | undefined }) {
  const still = useReducedMotion();
  const [fetched, setFetched] = useState<string>();
  const here = url.startsWith("blob:");
  useEffect(() => {
    if (here) return;
    const stopper = new AbortController();
    let made = "";
    fetch(url, { signal: stopper.signal })
      .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(answer.statusText))))
      .then((blob) => {
        made = URL.createObjectURL(blob);
        setFetched(made);
      })
      .catch(() => undefined); // left, or gone: the element stays empty
    return () => {
      stopper.abort();
      if (made) URL.revokeObjectURL(made);
    };
  }, [url, here]);
  // oxlint-disable-next-line jsx-a11y/media-has-caption -- what is drawn has no sound
  return <video src={here ? url : fetched} aria-label={alt} controls={plays} autoPlay={plays && !still} loop muted playsInline preload="auto" {...common} />;
}
