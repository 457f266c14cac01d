"""Pictures as PNG, with the settings in text chunks that other tools read. Equal pictures give equal bytes."""

import json
import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from services.generator.domain import PictureFormat, Plan, Settings

if TYPE_CHECKING:
    import numpy as np


def encode_png(pixels: "np.ndarray", chunks: Sequence[tuple[str, str]] = ()) -> bytes:
    """PNG of (H, W, 3) uint8, with text chunks (`iTXt` where Latin-1 cannot hold the text)."""
    info = PngInfo()
    for key, text in chunks:
        try:
            text.encode("latin-1")
            info.add_text(key, text)
        except UnicodeEncodeError:
            info.add_itxt(key, text)
    file = BytesIO()
    # A third of the default's time for a sixth more bytes: somebody waits for the picture.
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info, compress_level=1)
    return file.getvalue()


def encode(pixels: "np.ndarray", format: PictureFormat, quality: int, parameters: str, request: str) -> bytes:
    """A file of (H, W, 3) uint8 with its settings in it: as text chunks of a PNG, and in the EXIF of WebP and JPEG.

    There Stable Diffusion WebUI, and what reads its pictures, looks for `parameters` in UserComment. The request is the
    ImageDescription.
    """
    if format is PictureFormat.PNG:
        return encode_png(pixels, [("parameters", parameters), ("atelier", request)])
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = request
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + parameters.encode("utf-16-be")
    file = BytesIO()
    if format is PictureFormat.WEBP:
        Image.fromarray(pixels).save(file, "WEBP", quality=quality, lossless=quality == 100, exif=exif)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2, exif=exif)
    return file.getvalue()


def parameters_text(settings: Settings, plan: Plan, *, seed: int, sampler: str) -> str:
    """The `parameters` text as Stable Diffusion WebUI (A1111) writes it, for the picture drawn with `seed`.

    LoRAs stand in the prompt as `<lora:name:weight>`; `sampler` is the name people know.
    """
    prompt = settings.prompt
    loras = [(_lora_name(each.source.name), each) for each in plan.loras]
    for name, lora in loras:
        prompt += f"{' ' if prompt else ''}<lora:{name}:{lora.weight:g}>"
    pairs = {
        "Steps": str(settings.steps),
        "Sampler": sampler,
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": plan.base.digest[:10],
        "Model": plan.base.name,
    }
    if settings.guidance_rescale:
        pairs["CFG rescale"] = f"{settings.guidance_rescale:g}"
    if settings.image_to_image is not None:
        pairs["Denoising strength"] = f"{settings.image_to_image.strength:g}"
    if loras:
        pairs["Lora hashes"] = ", ".join(f"{name}: {lora.source.digest[:12]}" for name, lora in loras)
    line = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items() if value)
    negative = [f"Negative prompt: {settings.negative_prompt}"] if settings.negative_prompt else []
    return "\n".join([prompt, *negative, line])


def quote(value: str) -> str:
    """A value of the last line: as JSON when a comma, a colon or a newline would cut it short."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def _lora_name(name: str) -> str:
    """The model's name without what ends a `<lora:...>` tag."""
    return re.sub(r"[:<>\s]+", "_", name)
