"""The model families that can be loaded, by the name that models carry."""

from services.common.errors import FailedPrecondition
from services.diffusion.families import (
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    stable_video_diffusion,
)
from services.diffusion.families.family import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (stable_diffusion, stable_diffusion_xl, stable_diffusion_3, stable_video_diffusion)
}


def get_family(name: str) -> Family:
    """Raises FailedPrecondition (FAMILY_UNSUPPORTED) when this version cannot load the family."""
    try:
        return FAMILIES[name]
    except KeyError:
        offered = ", ".join(sorted(FAMILIES))
        message = f"models of the family '{name}' cannot be loaded by this version; it loads: {offered}"
        raise FailedPrecondition(message, reason="FAMILY_UNSUPPORTED") from None
