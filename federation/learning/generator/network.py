"""The denoiser: diffusers' `UNet2DModel` inside EDM preconditioning (Karras et al. 2022).

Only layers whose per-unit gradients are exact at the edge are used: convolution, linear,
embedding and GroupNorm. No dropout, no BatchNorm, no running statistics.
"""

import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch reader knows)
from diffusers import UNet2DModel

from federation.learning.generator import edm
from federation.learning.generator.architecture import Architecture, preset_of
from federation.learning.generator.kinds import UNetPreset

_NORM_GROUPS = 8


class Denoiser(torch.nn.Module):
    """D(x; sigma, label) = c_skip x + c_out F(c_in x, c_noise, label), eq. 7.

    Images whose sides are no multiple of the network's are padded up with zeros and cropped back.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        preset = preset_of(architecture)
        if not isinstance(preset, UNetPreset):
            raise TypeError("the preset is one of another kind")
        self._pad = _padding(architecture, preset.multiple_px)
        self.unet = _unet(architecture, preset)

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the denoised images [B, C, H, W] for x [B, C, H, W], sigma [B], labels [B]."""
        height, width = x.shape[-2:]
        level = sigma.reshape(-1, 1, 1, 1)
        inner = F.pad(edm.c_in(level) * x, self._pad)
        noise = edm.c_noise(sigma)
        raw = self.unet(inner, noise, class_labels=class_labels, return_dict=False)[0]
        top, left = self._pad[2], self._pad[0]
        cropped = raw[..., top : top + height, left : left + width]
        denoised: torch.Tensor = edm.c_skip(level) * x + edm.c_out(level) * cropped
        return denoised


def _padding(architecture: Architecture, multiple: int) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) in pixels that fill up to the next multiple."""
    wide, high = -architecture.width % multiple, -architecture.height % multiple
    return wide // 2, wide - wide // 2, high // 2, high - high // 2


def _unet(architecture: Architecture, preset: UNetPreset) -> torch.nn.Module:
    blocks = len(preset.block_channels)
    network: torch.nn.Module = UNet2DModel(
        in_channels=architecture.channels,
        out_channels=architecture.channels,
        block_out_channels=preset.block_channels,
        layers_per_block=preset.layers_per_block,
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        add_attention=preset.mid_attention,
        attention_head_dim=preset.block_channels[-1] // 4,
        norm_num_groups=_NORM_GROUPS,
        num_class_embeds=architecture.num_classes,
        dropout=0.0,
    )
    return network
