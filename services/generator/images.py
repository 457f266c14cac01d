"""Pictures and clips as files that hold the settings they were drawn with. Equal pictures give equal bytes.

The `parameters` text is in a PNG's text chunk, in the EXIF UserComment of WebP and JPEG, as Stable Diffusion WebUI
(A1111) has it, and in an MP4's comment. The request as JSON is in the chunk `atelier`, in the EXIF ImageDescription, in
the MP4's description.
"""

import json
import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from services.common.clips import encode_mp4, encode_webp_animation
from services.generator.domain import PictureFormat, Settings, Shot

if TYPE_CHECKING:
    import numpy as np

EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E
MAX_EXIF_BYTES = 65_000
"""Of JPEG, whose segments end at 65,535 bytes."""


def encode(pixels: "np.ndarray", settings: Settings, *, parameters: str, request: str) -> bytes:
    """A file of the settings' format of a picture (H, W, 3) uint8 or a clip (F, H, W, 3) uint8."""
    match settings.format:
        case PictureFormat.PNG:
            return encode_png(pixels, [("parameters", parameters), ("atelier", request)])
        case PictureFormat.WEBP | PictureFormat.JPEG:
            return _encode_with_exif(pixels, settings.format, settings.quality, parameters, request)
    rate = settings.image_to_video.frames_per_second if settings.image_to_video else 7
    if settings.format is PictureFormat.MP4:
        return encode_mp4(pixels, rate, metadata={"comment": parameters, "description": request})
    return encode_webp_animation(pixels, rate, quality=settings.quality, exif=_exif(parameters, request))


def _encode_with_exif(
    pixels: "np.ndarray", format: PictureFormat, quality: int, parameters: str, request: str
) -> bytes:
    file = BytesIO()
    picture = Image.fromarray(pixels)
    if format is PictureFormat.WEBP:
        exif = _exif(parameters, request)
        picture.save(file, "WEBP", quality=quality, lossless=quality == 100, method=4, exif=exif)
    else:
        exif = _exif(parameters, request)
        if len(exif) > MAX_EXIF_BYTES:
            exif = _exif(parameters[: MAX_EXIF_BYTES // 2 - 1000], "")
        # Colour is not thinned out where the best is asked for.
        picture.save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, exif=exif)
    return file.getvalue()


def _exif(parameters: str, request: str) -> bytes:
    """As Exif 2.3 has it, a UserComment begins with the name of its character set; its Unicode is UTF-16 with the big
    end first, as other tools read it. Descriptions are ASCII, which escapes make of any JSON."""
    exif = Image.Exif()
    if request:
        exif[IMAGE_DESCRIPTION] = json.dumps(json.loads(request))
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return exif.tobytes()


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


def parameters_text(settings: Settings, shot: Shot, *, sampler: str) -> str:
    """The `parameters` text as Stable Diffusion WebUI (A1111) writes it, for one picture.

    LoRAs stand in the prompt as `<lora:name:weight>`; `sampler` is the name people know.
    """
    prompt, plan = shot.prompt, shot.plan
    loras = [(_lora_name(each.source.name), each) for each in plan.loras]
    for name, lora in loras:
        prompt += f"{' ' if prompt else ''}<lora:{name}:{lora.weight:g}>"
    pairs = {
        "Steps": str(settings.steps),
        "Sampler": sampler,
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": str(shot.seed),
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": plan.base.digest[:10],
        "Model": plan.base.name,
    }
    if settings.guidance_rescale:
        pairs["CFG rescale"] = f"{settings.guidance_rescale:g}"
    if begun := settings.image_to_image:
        pairs["Denoising strength"] = f"{begun.strength:g}"
        if begun.mask is not None:
            pairs["Mask blur"] = str(begun.mask_blur)
    if second := settings.high_resolution:
        pairs.setdefault("Denoising strength", f"{second.strength:g}")
        pairs["Hires upscale"] = f"{second.scale:g}"
        pairs["Hires steps"] = str(second.steps)
        pairs["Hires upscaler"] = "Lanczos"
    for place, (control, source) in enumerate(zip(settings.controls, plan.controls, strict=False)):
        pairs[f"ControlNet {place}"] = (
            f"Model: {source.name}, Weight: {control.weight:g},"
            f" Guidance Start: {control.start:g}, Guidance End: {control.end:g}"
        )
    if clip := settings.image_to_video:
        pairs["Frames"] = str(clip.num_frames)
        pairs["FPS"] = str(clip.frames_per_second)
        pairs["Motion bucket"] = str(clip.motion_bucket_id)
    if loras:
        pairs["Lora hashes"] = ", ".join(f"{name}: {lora.source.digest[:12]}" for name, lora in loras)
    line = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items() if value)
    negative = [f"Negative prompt: {shot.negative_prompt}"] if shot.negative_prompt else []
    return "\n".join([prompt, *negative, line])


def quote(value: str) -> str:
    """A value of the last line: as JSON when a comma, a colon or a newline would cut it short."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def _lora_name(name: str) -> str:
    """The model's name without what ends a `<lora:...>` tag."""
    return re.sub(r"[:<>\s]+", "_", name)
