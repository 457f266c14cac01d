"""Which ControlNets fit which models."""

import pytest
from atelier.catalog.v1 import model_pb2

from services.common.errors import FailedPrecondition
from services.generator.catalog import check_control

FIELD = "settings.controls[0].model_id"
SD, XL, SD3 = (
    model_pb2.MODEL_FAMILY_STABLE_DIFFUSION,
    model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_XL,
    model_pb2.MODEL_FAMILY_STABLE_DIFFUSION_3,
)


def model(**fields: object) -> model_pb2.Model:
    return model_pb2.Model(**{"id": 7, "name": "it", "family": SD, "is_active": True, **fields})  # type: ignore[arg-type]


def control(**fields: object) -> model_pb2.Model:
    return model(**{"layout": model_pb2.WEIGHTS_LAYOUT_CONTROLNET, **fields})


def test_one_of_the_same_family_fits() -> None:
    check_control(control(), model(), field=FIELD)
    check_control(control(family=XL), model(family=XL), field=FIELD)


@pytest.mark.parametrize(
    ("named", "base", "reason"),
    [
        (control(is_active=False), model(), "MODEL_INACTIVE"),
        (model(), model(), "NOT_A_CONTROLNET"),
        (control(family=XL), model(), "CONTROL_MISMATCH"),
        (control(family=SD3), model(family=SD3), "CONTROL_UNSUPPORTED"),
    ],
)
def test_others_are_refused_by_their_field(named: model_pb2.Model, base: model_pb2.Model, reason: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        check_control(named, base, field=FIELD)
    assert caught.value.reason == reason
    assert caught.value.message.startswith(FIELD)
