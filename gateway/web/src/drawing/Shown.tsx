interface ShownProps {
  url: string;
  contentType: string;
  alt: string;
  className?: string | undefined;
  width?: number;
  height?: number;
  lazy?: boolean;
  /** A clip with its controls; otherwise its first frame alone. */
  plays?: boolean;
  final?: boolean;
}

/** A picture, or a clip in the element that plays it. */
export function Shown({ url, contentType, alt, className, width, height, lazy, plays, final }: ShownProps) {
  const shape = width && height ? { width, height, style: { height: "auto" } } : {};
  if (contentType.startsWith("video/")) {
    return (
      // oxlint-disable-next-line jsx-a11y/media-has-caption -- what is drawn has no sound
      <video
        src={url}
        aria-label={alt}
        controls={plays}
        loop
        muted
        playsInline
        preload="metadata"
        className={className}
        data-final={final || undefined}
        {...shape}
      />
    );
  }
  return <img src={url} alt={alt} loading={lazy ? "lazy" : undefined} className={className} data-final={final || undefined} {...shape} />;
}
