"""Values for the Trainer's tests."""

import uuid
from typing import Any

from services.trainer import domain


def new_job(**changes: Any) -> domain.NewJob:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "request_id": None,
        "dataset_id": 1,
        "base_model_id": 4,
        "method": domain.Method.LORA,
        "output_name": "",
        "config": domain.TrainingConfig(resolution=64, seed=7, lora=domain.LoraConfig(alpha=4.0)),
        "snapshot_digest": "ab" * 32,
        "num_items": 40,
    }
    return domain.NewJob(**values | changes)


def progress(step: int, *, loss: float = 0.5, total: int = 10) -> domain.Progress:
    return domain.Progress(step, total, 1, 2, loss, loss, 1e-4, 30.0, step * 100, 1000 - step * 100, 1 << 30, 0.1)


def trained(step: int = 10) -> domain.Trained:
    return domain.Trained(step, 2, (domain.ModelFile("pytorch_lora_weights.safetensors", "cd" * 32, 1234),))


def log(message: str = "loaded") -> domain.Log:
    return domain.Log(domain.LogLevel.INFO, message)
