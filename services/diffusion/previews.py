"""What a picture under way looks like, in next to no time: one linear map from latents to colours."""

from typing import TYPE_CHECKING

from services.diffusion.encode import decode_latents, encode_images
from services.diffusion.load import Components

if TYPE_CHECKING:
    import torch

SIDE = 16
"""Latents a side of the pictures that the map is first fitted to."""
COUNT = 6
"""How many of each of two kinds."""
RIDGE = 1e-4
"""Keeps channels that say nothing at nothing."""


class PreviewMap:
    """RGB = W latents + b, at every place alike, fitted by least squares to what the VAE has decoded.

    At first that is a dozen made-up patches, decoded when the first preview is asked for; `learn` adds finished
    pictures, each of which counts as much as all patches. One thread uses it.
    """

    def __init__(self, components: Components) -> None:
        import torch

        self._components = components
        size = components.vae.config.latent_channels + 1
        self._products = torch.zeros(size, size, dtype=torch.float64)
        self._answers = torch.zeros(size, 3, dtype=torch.float64)
        self._is_begun = False
        self._weights: torch.Tensor | None = None  # (C + 1, 3) float32, on the device

    def __call__(self, latents: "torch.Tensor") -> "torch.Tensor":
        """(B, h, w, 3) uint8 on the CPU, of scaled latents (B, C, h, w); with an axis F behind B of a clip's."""
        import torch

        with torch.no_grad():
            weights = self._fitted(latents.device)
            places = latents.float().movedim(-3, -1)
            colours = places @ weights[:-1] + weights[-1]
            return (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def learn(self, latents: "torch.Tensor", pixels: "torch.Tensor") -> None:
        """Of finished scaled latents (B, C, h, w) and what they were decoded to, (B, H, W, 3) uint8; with an axis F
        behind B of a clip's."""
        self._begin()
        self._add(latents, pixels)

    def _fitted(self, device: "torch.device") -> "torch.Tensor":
        import torch

        self._begin()
        if self._weights is None or self._weights.device != device:
            ridge = RIDGE * torch.eye(len(self._products), dtype=torch.float64)
            # Solved in double precision on the CPU: the matrix is tiny, and not every device has doubles.
            self._weights = torch.linalg.solve(self._products + ridge, self._answers).float().to(device)
        return self._weights

    def _begin(self) -> None:
        if self._is_begun:
            return
        self._is_begun = True
        latents = _patches(self._components)
        clip = self._components.family.draws_clips
        pixels = decode_latents(self._components, latents[None] if clip else latents)
        self._add(latents, pixels[0] if clip else pixels)

    def _add(self, latents: "torch.Tensor", pixels: "torch.Tensor") -> None:
        """To the normal equations, all places together counting one."""
        import torch

        channels, height, width = latents.shape[-3:]
        colours = pixels.reshape(-1, *pixels.shape[-3:]).permute(0, 3, 1, 2).float() / 255
        small = torch.nn.functional.adaptive_avg_pool2d(colours, (height, width)).movedim(1, -1).reshape(-1, 3)
        places = latents.detach().float().cpu().movedim(-3, -1).reshape(-1, channels)
        known = torch.cat([places, torch.ones(len(places), 1)], dim=1).double()
        if not bool(torch.isfinite(known).all()):
            return  # a drawing that went wrong teaches nothing
        self._products += known.T @ known / len(known)
        self._answers += known.T @ small.double() / len(known)
        self._weights = None


def _patches(components: Components) -> "torch.Tensor":
    """Scaled latents (2 COUNT, C, SIDE, SIDE): of coloured patches that the VAE encodes, which are like pictures' own,
    and smooth random ones, which tell all channels apart. The same each time."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    enlarge = torch.nn.functional.interpolate
    side = SIDE * components.size.vae_factor
    colours = enlarge(torch.rand(COUNT, 3, 4, 4, generator=generator), size=(side, side), mode="bilinear")
    encoded, _ = encode_images(components, colours * 2 - 1)
    shape = (COUNT, components.vae.config.latent_channels, 4, 4)
    smooth = enlarge(torch.randn(shape, generator=generator), size=(SIDE, SIDE), mode="bilinear")
    return torch.cat([encoded, smooth.to(encoded)])
