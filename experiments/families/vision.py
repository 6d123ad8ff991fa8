"""Convolutional layers."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
from flax import linen

from experiments.families.libraries import from_haiku
from experiments.families.stack import Size, Stack, layers, normal

__all__ = ["convnext", "image", "resnet"]


def image(seed: int, size: Size) -> jax.Array:
    """Return B square images of about T pixels and H channels."""
    side = max(round(size.time**0.5), 4)
    return normal(seed, size.batch, side, side, size.width)


class ResNetBlock(linen.Module):
    """Two convolutions, each with a batch norm in training mode; K. He et al., 2016."""

    @linen.compact
    def __call__(self, x_byxh):
        """Return images [B, Y, X, H]."""
        for _ in range(2):
            h_byxh = linen.BatchNorm(use_running_average=False)(x_byxh)
            x_byxh = x_byxh + linen.Conv(x_byxh.shape[-1], (3, 3))(linen.relu(h_byxh))
        return x_byxh


def resnet(dtype: Any, size: Size) -> Stack:
    """A pre-activation ResNet from Linen's modules; each layer outputs its running statistics."""
    block, images = ResNetBlock(), image(1, size)

    def apply(variables, images):
        return block.apply(variables, images, mutable=["batch_stats"])

    return layers(lambda key: block.init(key, images), apply, images, size, dtype, has_output=True)


def _convnext_block(x_byxh):
    width = x_byxh.shape[-1]
    h_byxh = hk.DepthwiseConv2D(1, 7)(x_byxh)
    h_byxh = hk.LayerNorm(-1, create_scale=True, create_offset=True)(h_byxh)
    h_byxh = jax.nn.gelu(hk.Conv2D(4 * width, 1)(h_byxh))
    return x_byxh + hk.Conv2D(width, 1)(h_byxh)


def convnext(dtype: Any, size: Size) -> Stack:
    """A depthwise convolution, a layer norm and an MLP from Haiku's modules; Z. Liu et al., 2022."""
    return layers(*from_haiku(_convnext_block, image(1, size)), image(1, size), size, dtype)
