"""Pictures from features, by denoising (LaVIT, Jin et al. 2024, section 3.1: the de-tokenizer is a latent diffusion model
whose condition is what the visual tokenizer's decoder gives back)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import UserError


@dataclass(frozen=True)
class PixelConfig:
    unet: str = ""
    """Folder or hub name of a diffusion pipeline with a unet and a vae, as diffusers saves it (the paper's is Stable
    Diffusion 1.5); empty: a fresh network over pixels, of the sizes below."""
    unet_channels: tuple[int, ...] = (64, 128, 256)
    """Of its levels, each of half the size of the one before."""
    unet_condition: int = 128
    """Width of what it attends to."""
    unet_cell: int = 1
    """Pixels a side of what a fresh network sees as one place, their colours one after the other: the coarser grid that a
    published pipeline has from its vae."""
    predicts: str = "epsilon"
    """What the network gives: epsilon (the noise, as the paper's), sample (the picture, which is learned in fewer
    updates) or v_prediction (Salimans and Ho 2022)."""
    noise: int = 1000
    """Levels of noise in training."""
    unconditional: float = 0.1
    """Share of the pictures that are denoised without their features, which guidance needs."""

    def unused(self) -> dict[str, str]:
        """Fields that the others leave without effect, and why; setting one is a mistake."""
        sizes = ("unet_channels", "unet_condition", "unet_cell")
        return dict.fromkeys(sizes, f"has no effect on unet={self.unet}") if self.unet else {}


PREDICTS = ("epsilon", "sample", "v_prediction")


class PixelDecoder(nn.Module):
    """A U-net that takes noise from a picture, with cross-attention to features [B, N, D].

    Learns to tell noise and picture apart (DDPM, Ho et al. 2020, equation 14); draws by DDIM with classifier-free
    guidance (Ho and Salimans 2022), the features of no picture being zeros. Pictures are in -1..1, [B, 3, H, W].
    """

    def __init__(self, features: int, size: int, config: PixelConfig, weights: bool = True) -> None:
        """Without ``weights`` published networks have their shapes alone, for weights that come from elsewhere."""
        super().__init__()
        if config.predicts not in PREDICTS:
            raise UserError(f"predicts={config.predicts!r} is unknown; known: {', '.join(PREDICTS)}")
        coarsest = config.unet_cell * 2 ** (len(config.unet_channels) - 1)
        if not config.unet and (config.unet_cell < 1 or size % coarsest):
            raise UserError(
                f"picture={size} is no multiple of {coarsest}, the pixels that unet_cell={config.unet_cell} and the "
                "levels of unet_channels make one place of"
            )
        self.config, self.size = config, size
        self.unet: Any
        self.vae: Any
        self.unet, self.vae = (
            _published(config.unet, weights) if config.unet else (_fresh(size, config), None)
        )
        if self.vae is not None:
            self.vae.requires_grad_(False)
        self.project = nn.Linear(features, self.unet.config.cross_attention_dim)
        diffusers, noising = _diffusers(), {
            "num_train_timesteps": config.noise, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "beta_end": 0.012, "prediction_type": config.predicts, "clip_sample": self.vae is None,
        }  # fmt: skip
        self.noising = diffusers.DDPMScheduler(**noising)
        self.denoising = diffusers.DDIMScheduler(**noising, set_alpha_to_one=False, steps_offset=1)

    def losses(
        self, pictures: Float[Tensor, "b 3 h w"], features: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b"]:
        """Squared error of what is predicted of each picture; noise, its level and what goes without features are drawn
        from torch's generator."""
        clean = self._latent(pictures)
        levels = torch.randint(self.config.noise, (len(clean),), device=clean.device)
        blind = torch.rand(len(clean), device=clean.device) < self.config.unconditional
        noise = torch.randn_like(clean)
        noisy = self.noising.add_noise(clean, noise, levels)
        seen = self.project(features) * (~blind)[:, None, None]
        target = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: self.noising.get_velocity(clean, noise, levels),
        }[self.config.predicts]()
        return (self.unet(noisy, levels, seen).sample.float() - target).square().mean((1, 2, 3))

    @torch.no_grad()
    def draw(
        self,
        features: Float[Tensor, "b n d"],
        steps: int,
        guidance: float,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        c = self.unet.config
        side = (len(features), c.in_channels, c.sample_size, c.sample_size)
        x = torch.randn(side, generator=generator, device=features.device) * self.denoising.init_noise_sigma
        seen = self.project(features)
        guided = guidance != 1.0
        both = torch.cat([torch.zeros_like(seen), seen]) if guided else seen
        self.denoising.set_timesteps(steps, device=features.device)
        for level in self.denoising.timesteps:
            told = self.unet(torch.cat([x, x]) if guided else x, level, both).sample.float()
            if guided:
                blind, told = told.chunk(2)
                told = blind + guidance * (told - blind)
            x = self.denoising.step(told, level, x).prev_sample
        if self.vae is None:
            return F.pixel_shuffle(x, self.config.unet_cell).clamp(-1, 1)
        return self.vae.decode(x / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def _latent(self, pictures: Tensor) -> Tensor:
        if self.vae is None:
            return F.pixel_unshuffle(pictures, self.config.unet_cell)
        with torch.no_grad():
            return self.vae.encode(pictures).latent_dist.sample() * self.vae.config.scaling_factor


def _fresh(size: int, c: PixelConfig) -> Any:
    """Attention at all levels but the finest."""
    levels = len(c.unet_channels)
    return _diffusers().UNet2DConditionModel(
        sample_size=size // c.unet_cell,
        in_channels=3 * c.unet_cell**2,
        out_channels=3 * c.unet_cell**2,
        block_out_channels=c.unet_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        cross_attention_dim=c.unet_condition,
        attention_head_dim=8,
        norm_num_groups=8,
    )


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        {"sample_size": 64, "cross_attention_dim": 768},
        {
            "sample_size": 512,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
    )
}
"""Shapes of the published networks that presets name, where they are not diffusers' own defaults. So they are shown and
counted, and finished runs of them opened, where the hub is out of reach."""


def _published(name: str, weights: bool) -> tuple[Any, Any]:
    diffusers = _diffusers()
    kinds = (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL))
    if not weights and name in PUBLISHED:
        unet, vae = (kind(**shape) for (_, kind), shape in zip(kinds, PUBLISHED[name], strict=True))
        return unet, vae
    try:
        unet, vae = (
            kind.from_pretrained(name, subfolder=part, use_safetensors=True)
            if weights
            else kind.from_config(kind.load_config(name, subfolder=part))
            for part, kind in kinds
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"unet={name!r} is no diffusion pipeline that can be opened: {' '.join(str(error).split())[:160]}; give a "
            "folder with unet and vae as diffusers saves them, in safetensors"
        ) from error
    return unet, vae


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise UserError("drawing needs diffusers; pip install 'oculex[draw]'") from error
    return diffusers
