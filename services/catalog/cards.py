"""Model cards: README.md as the hub's tools read it, YAML about the model, then what people read."""

from collections.abc import Mapping
from typing import Any

from services.catalog.domain import HubWeights, Model, ModelCategory, ModelType, Sample, WeightsLayout

# The hub knows licences by these names; others are written as they are, under `other`.
LICENSES = {
    "apache-2.0",
    "mit",
    "openrail",
    "creativeml-openrail-m",
    "openrail++",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
}
TASKS = {ModelCategory.IMAGE: "text-to-image", ModelCategory.VIDEO: "image-to-video"}


def model_card(model: Model, base: Model | None, pictures: Mapping[str, Sample]) -> str:
    """The card of a model with its samples, by the paths at which their pictures lie beside it."""
    from huggingface_hub import ModelCard, ModelCardData

    task = TASKS[model.category]
    kind = {WeightsLayout.LORA: ["lora", "template:sd-lora"], WeightsLayout.CONTROLNET: ["controlnet"]}
    tags = [task, "diffusers", "atelier", *kind.get(model.layout, [])]
    known = model.license.lower() in LICENSES
    about: dict[str, Any] = {"license": model.license.lower() if known else "other"} if model.license else {}
    if model.license and not known:
        about["license_name"] = model.license
    if base is not None:
        about["base_model"] = base.weights.repo_id if isinstance(base.weights, HubWeights) else base.name
        if model.type is not ModelType.BASE_MODEL:
            beside = is_lora(model) or model.type is ModelType.CONTROLNET
            about["base_model_relation"] = "adapter" if beside else "finetune"
    if model.trigger_words:
        about["instance_prompt"] = model.trigger_words[0]
    if pictures:
        about["widget"] = [{"text": each.prompt or " ", "output": {"url": path}} for path, each in pictures.items()]
    data = ModelCardData(library_name="diffusers", pipeline_tag=task, tags=tags, **about)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(model, base, pictures)}"))


def is_lora(model: Model) -> bool:
    return model.layout is WeightsLayout.LORA


def _text(model: Model, base: Model | None, pictures: Mapping[str, Sample]) -> str:
    lines = [f"# {model.name}", ""]
    lines += ["<Gallery />", ""] if pictures else []  # the hub shows the widget's pictures here
    lines += [model.description, ""] if model.description else []
    what = {WeightsLayout.LORA: "A LoRA", WeightsLayout.CONTROLNET: "A ControlNet"}.get(model.layout, "Weights")
    how = "trained with" if model.job_id else "kept by"
    lines += [f"{what} {how} Atelier{f' on {base.name}' if base else ''}.", ""]
    facts = {
        "Trigger words": ", ".join(f"`{word}`" for word in model.trigger_words),
        "Resolution": f"{model.native_resolution} pixels" if model.native_resolution else "",
        "Step": str(model.checkpoint_step or ""),
        "Training job": model.job_id,
        "Dataset snapshot": model.snapshot_digest,
    }
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    if is_lora(model):
        lines += [
            "",
            "```python",
            "pipeline.load_lora_weights(FOLDER)  # of a diffusers pipeline of the base model",
            "```",
        ]
    return "\n".join(lines) + "\n"
