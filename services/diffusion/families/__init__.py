"""The model families that can be loaded, by the name that models carry."""

from services.common.errors import FailedPrecondition
from services.diffusion.families import stable_diffusion
from services.diffusion.families.family import Family

FAMILIES: dict[str, Family] = {stable_diffusion.FAMILY.name: stable_diffusion.FAMILY}


def get_family(name: str) -> Family:
    """Raises FailedPrecondition (FAMILY_UNSUPPORTED) when this version cannot load the family."""
    try:
        return FAMILIES[name]
    except KeyError:
        offered = ", ".join(sorted(FAMILIES))
        message = f"models of the family '{name}' cannot be loaded by this version; it loads: {offered}"
        raise FailedPrecondition(message, reason="FAMILY_UNSUPPORTED") from None
