import { Button, Menu } from "@mantine/core";
import { IconDownload } from "@tabler/icons-react";
import { exportUrl } from "../api/urls";
import { type Model, WeightsLayout } from "../gen/atelier/catalog/v1/model_pb";
import { useSpeech } from "../i18n";

/** The model as a file for other programs. Models whose weights are on a hub have none here. */
export function Export({ model }: { model: Model }) {
  const { words } = useSpeech();
  if (model.weights.case !== "stored") return null;
  const name = model.name.replace(/[^A-Za-z0-9_.-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "") || "model";
  const offers: [string, string, string][] = [["DIFFUSERS", `${name}.zip`, words.models.exportDiffusers]];
  if (model.layout === WeightsLayout.LORA) {
    offers.unshift(
      ["LORA_KOHYA", `${name}-kohya.safetensors`, words.models.exportKohya],
      ["LORA_DIFFUSERS", `${name}.safetensors`, words.models.exportLora],
    );
  }
  return (
    <Menu position="bottom-end">
      <Menu.Target>
        <Button variant="default" leftSection={<IconDownload size={16} aria-hidden />}>
          {words.models.export}
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {offers.map(([format, file, label]) => (
          <Menu.Item key={format} component="a" href={exportUrl(model.id, format)} download={file}>
            {label}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}
