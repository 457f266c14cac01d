/** A wildcard as the form holds it: its lines in one text. */
export interface Wildcard {
  name: string;
  lines: string;
}

// As the server reads them; a backslash before a bracket or an underscore leaves it as it is.
const NAMES = /\\.|__([A-Za-z0-9-](?:_?[A-Za-z0-9-]){0,63})__/gs;

/** The names that texts take lines from, each once. */
export function namesIn(...texts: readonly string[]): string[] {
  const found = texts.flatMap((text) => [...text.matchAll(NAMES)].map(([, name]) => name ?? ""));
  return [...new Set(found)].filter((name) => name !== "");
}

/** The lines that count: without the empty ones and those that begin with `#`. */
export function linesOf(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/** Names that are asked for and have no line, also within the lines of others. */
export function missing(prompts: readonly string[], wildcards: readonly Wildcard[]): string[] {
  const known = new Map(wildcards.map(({ name, lines }) => [name, linesOf(lines)]));
  const seen = new Set<string>();
  const wanted = namesIn(...prompts);
  while (wanted.length > 0) {
    const name = wanted.pop() ?? "";
    if (seen.has(name)) continue;
    seen.add(name);
    wanted.push(...namesIn(...(known.get(name) ?? [])));
  }
  return [...seen].filter((name) => !known.get(name)?.length).toSorted();
}
