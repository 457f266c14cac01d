"""How weights came to be, complete enough to make them again, as JSON in their own header."""

import importlib.metadata
import json
import platform
from typing import Any

from atelier.trainer.v1.training_pb2 import TrainingConfig as ConfigMessage
from google.protobuf.json_format import MessageToDict, ParseDict

from services.trainer.convert import config_from_proto, config_to_proto
from services.trainer.domain import TrainingConfig
from services.trainer.worker.assignment import Assignment

KEY = "atelier_training"
"""In the safetensors header."""
PACKAGES = ("atelier", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def record_training(
    assignment: Assignment, config: TrainingConfig, *, device: str, precision: str, num_images: int, step: int
) -> str:
    """JSON of the whole configuration, as CreateTrainingJob takes it, and of all else that decides the weights. No
    times and no names of jobs in it: equal trainings have equal records."""
    bases = [
        {"name": base.name, "family": base.family, "digest": base.digest or f"{base.hub_repo}@{base.hub_revision}"}
        for base in assignment.bases
    ]
    record = {
        "method": assignment.method.value,
        "config": config_as_plain(config),
        "seed": config.seed,
        "snapshot_digest": assignment.snapshot_digest,
        "class_snapshot_digest": assignment.class_snapshot_digest,
        "bases": bases,
        "num_images": num_images,
        "step": step,
        "device": device,
        "mixed_precision": precision,
        "versions": versions(),
    }
    return json.dumps(record, ensure_ascii=False, sort_keys=True)


def config_as_plain(config: TrainingConfig) -> dict[str, Any]:
    """As CreateTrainingJob takes it in JSON, every default visible."""
    return MessageToDict(
        config_to_proto(config), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def versions() -> dict[str, str]:
    """Of what trains."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def config_of(record: dict[str, Any]) -> TrainingConfig:
    """The configuration that a record holds. Raises ParseError for a field that this version does not know."""
    return config_from_proto(ParseDict(record["config"], ConfigMessage()))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"  # runs without being installed
