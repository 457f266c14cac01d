import { Accordion, Badge, Group } from "@mantine/core";
import { type ReactNode, useState } from "react";
import { PictureFormat, PromptSyntax } from "../gen/atelier/generator/v1/generation_pb";
import { useSpeech } from "../i18n";
import { BeginFields } from "./BeginFields";
import { fittingControls } from "./choices";
import { ControlFields, LargerFields } from "./ControlFields";
import type { Draft } from "./draft";
import type { FieldsProps } from "./Fields";
import { FileFields } from "./FileFields";
import { SyntaxFields } from "./SyntaxFields";

interface Section {
  value: string;
  title: string;
  /** Whether something in it differs from what is drawn without it. */
  used: boolean;
  fields: readonly (keyof Draft)[];
  content: ReactNode;
}

interface MoreFieldsProps extends FieldsProps {
  /** What decides on what there is: the form's own model, or the first of several. */
  modelId: number;
}

/** What a first picture does without, each folded away under its heading. */
export function MoreFields({ modelId, ...props }: MoreFieldsProps) {
  const { words } = useSpeech();
  const { draft, problem, choices } = props;
  const [open, setOpen] = useState<string[]>(() => (draft.begin ? ["begin"] : []));
  const [begun, setBegun] = useState(draft.begin);
  // A picture that comes from elsewhere on the page is shown where it has gone.
  if (begun !== draft.begin) {
    setBegun(draft.begin);
    if (draft.begin && !open.includes("begin")) setOpen([...open, "begin"]);
  }
  const { clips } = choices.kind(modelId);
  const controls = fittingControls(choices.model(modelId), choices.models, choices.able?.controlFamilies ?? []);
  const sections: Section[] = [
    {
      value: "begin",
      title: words.begin.title,
      used: draft.begin !== null,
      fields: ["begin", "strength", "mask", "maskBlur"],
      content: <BeginFields {...props} />,
    },
    {
      value: "syntax",
      title: words.syntax.title,
      used: draft.wildcards.length > 0 || draft.syntax === PromptSyntax.PLAIN,
      fields: ["syntax", "wildcards"],
      content: <SyntaxFields {...props} />,
    },
    {
      value: "control",
      title: words.control.title,
      used: draft.controls.length > 0,
      fields: ["controls"],
      content: <ControlFields {...props} models={controls} />,
    },
    {
      value: "larger",
      title: words.larger.title,
      used: draft.enlarges,
      fields: ["enlarges", "scale", "scaleStrength", "scaleSteps"],
      content: <LargerFields {...props} />,
    },
    {
      value: "file",
      title: words.file.title,
      used: ![PictureFormat.UNSPECIFIED, PictureFormat.PNG, PictureFormat.MP4].includes(draft.format) || draft.deterministic,
      fields: ["format", "quality", "rescale", "deterministic"],
      content: <FileFields {...props} clips={clips} />,
    },
  ];
  const shown = sections.filter(({ value }) =>
    clips ? value === "file" : value !== "control" || controls.length > 0 || draft.controls.length > 0,
  );
  const troubled = shown.filter(({ fields }) => fields.some((name) => problem(name) !== undefined)).map(({ value }) => value);
  return (
    <Accordion variant="contained" multiple value={[...new Set([...open, ...troubled])]} onChange={setOpen}>
      {shown.map(({ value, title, used, content }) => (
        <Accordion.Item key={value} value={value}>
          <Accordion.Control>
            <Group justify="space-between" wrap="nowrap" gap="xs">
              <span>{title}</span>
              {used && (
                <Badge size="sm" variant="light" mr="xs">
                  {words.drawing.inUse}
                </Badge>
              )}
            </Group>
          </Accordion.Control>
          <Accordion.Panel>{content}</Accordion.Panel>
        </Accordion.Item>
      ))}
    </Accordion>
  );
}
