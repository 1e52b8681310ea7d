"""Per-unit gradients, with a unit's K draws summed inside each layer.

A batch holds the K draws of U units, draw-major: row k * U + u is draw k of unit u. For every
parameter the backward pass leaves `parameter.grad_sample` of shape [U, *parameter.shape], the
gradient of the loss summed over the unit's K rows, where Opacus' optimiser expects it. Nothing of
size U * K * parameters is ever made, and autograd's own sum over the batch is not computed.

The convolution's trick: with rows draw-major, [K * U, C, H, W] *is* [K, U * C, H, W], so the
weight gradient of one convolution in U groups is every unit's own gradient, without a copy.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch reader knows)
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm

from kit.errors import KitError


def attach(network: nn.Module, *, draws: int) -> None:
    """Make `network` compute per-unit gradients for batches of `draws` rows per unit.

    Forward values do not change; `parameter.grad` stays empty.

    Raises:
        KitError: a layer has parameters but no exact per-unit gradient here, or mixes units.
    """
    for name, layer in network.named_modules():
        own = list(layer.parameters(recurse=False))
        forward = _FORWARD.get(type(layer))
        if isinstance(layer, _BatchNorm) or (own and forward is None) or _is_grouped(layer):
            raise KitError(
                f"layer `{name}` ({type(layer).__name__}) has no per-unit gradient",
                hint="use Conv2d without groups, Linear, Embedding and GroupNorm only",
            )
        if forward is not None and own:
            layer.forward = partial(forward, layer, draws)


def empty_gradients(network: nn.Module) -> None:
    """Set the per-unit gradients of no unit at all, [0, *shape]."""
    for parameter in network.parameters():
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and (
        layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    )


def _keep(parameter: nn.Parameter | None, gradient: Callable[[], Tensor]) -> None:
    """Add to `grad_sample`: a layer that is used twice in a forward pass owes both."""
    if parameter is None:
        return
    found = getattr(parameter, "grad_sample", None)
    value = gradient().reshape(-1, *parameter.shape)
    parameter.grad_sample = value if found is None else found + value  # type: ignore[attr-defined]


def _by_unit(rows: Tensor, draws: int) -> Tensor:
    """View [K * U, ...] as [K, U, ...]."""
    return rows.reshape(draws, len(rows) // draws, *rows.shape[1:])


def _flat(rows: Tensor, draws: int) -> Tensor:
    """View [K * U, C, H, W] as [K, U, C, H * W]."""
    return _by_unit(rows.flatten(2), draws)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)


class _UnitConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, draws: int
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.draws = layer, draws
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,), layer, grad = ctx.saved_tensors, ctx.layer, grads[0].contiguous()
        units = len(x) // ctx.draws
        how = (layer.stride, layer.padding, layer.dilation)
        grouped = (units * layer.out_channels, layer.in_channels, *layer.kernel_size)

        def weight_gradient() -> Tensor:
            if _is_pointwise(layer):  # a matrix product; a grouped 1x1 convolution is slow
                return torch.einsum("kuot,kuit->uoi", _flat(grad, ctx.draws), _flat(x, ctx.draws))
            inputs = x.reshape(ctx.draws, -1, *x.shape[2:])
            outputs = grad.reshape(ctx.draws, -1, *grad.shape[2:])
            each: Tensor = conv2d_weight(inputs, grouped, outputs, *how, units)  # type: ignore[no-untyped-call]
            return each

        _keep(layer.weight, weight_gradient)
        _keep(layer.bias, lambda: _by_unit(grad.sum(dim=(2, 3)), ctx.draws).sum(dim=0))
        inner = None
        if ctx.needs_input_grad[0]:
            inner = conv2d_input(x.shape, layer.weight, grad, *how)  # type: ignore[no-untyped-call]
        return inner, None, None, None, None


class _UnitLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Linear, draws: int
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.draws = layer, draws
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,), layer, grad = ctx.saved_tensors, ctx.layer, grads[0]
        outputs = _by_unit(grad.flatten(1, -2) if grad.dim() > 2 else grad[:, None], ctx.draws)
        inputs = _by_unit(x.flatten(1, -2) if x.dim() > 2 else x[:, None], ctx.draws)
        _keep(layer.weight, lambda: torch.einsum("kuto,kuti->uoi", outputs, inputs))
        _keep(layer.bias, lambda: outputs.sum(dim=(0, 2)))
        return grad @ layer.weight if ctx.needs_input_grad[0] else None, None, None, None, None


class _UnitEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, indices: Tensor, weight: Tensor, layer: nn.Embedding, draws: int
    ) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.layer, ctx.draws = layer, draws
        return F.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:
        (indices,), layer = ctx.saved_tensors, ctx.layer
        units = len(indices) // ctx.draws
        rows = _by_unit(indices, ctx.draws)
        unit = torch.arange(units, device=rows.device).reshape(1, -1, *[1] * (rows.dim() - 2))
        target = (unit * layer.num_embeddings + rows).flatten()
        table = grads[0].new_zeros((units * layer.num_embeddings, layer.embedding_dim))
        _keep(layer.weight, lambda: table.index_add(0, target, grads[0].reshape(len(target), -1)))
        return None, None, None, None


class _UnitGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: nn.GroupNorm, draws: int
    ) -> Tensor:
        inner = x.contiguous()
        size = (len(x), layer.num_channels, inner[0, 0].numel(), layer.num_groups)
        y, mean, rstd = torch.native_group_norm(inner, weight, bias, *size, layer.eps)
        ctx.save_for_backward(inner, mean, rstd)
        ctx.layer, ctx.draws, ctx.size = layer, draws, size
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x, mean, rstd), layer, grad = ctx.saved_tensors, ctx.layer, grads[0].contiguous()
        over = layer.num_channels // layer.num_groups
        plain = grad.flatten(2).sum(dim=2)

        def weight_gradient() -> Tensor:
            scaled = (grad * x).flatten(2).sum(dim=2)
            rows = scaled - mean.repeat_interleave(over, dim=1) * plain
            return _by_unit(rows * rstd.repeat_interleave(over, dim=1), ctx.draws).sum(dim=0)

        _keep(layer.weight, weight_gradient)
        _keep(layer.bias, lambda: _by_unit(plain, ctx.draws).sum(dim=0))
        inner = None
        if ctx.needs_input_grad[0]:
            inner = torch.ops.aten.native_group_norm_backward(
                grad, x, mean, rstd, layer.weight, *ctx.size, [True, False, False]
            )[0]
        return inner, None, None, None, None


def _conv2d(layer: nn.Conv2d, draws: int, x: Tensor) -> Tensor:
    result: Tensor = _UnitConv2d.apply(x, layer.weight, layer.bias, layer, draws)  # type: ignore[no-untyped-call]
    return result


def _linear(layer: nn.Linear, draws: int, x: Tensor) -> Tensor:
    result: Tensor = _UnitLinear.apply(x, layer.weight, layer.bias, layer, draws)  # type: ignore[no-untyped-call]
    return result


def _embedding(layer: nn.Embedding, draws: int, indices: Tensor) -> Tensor:
    result: Tensor = _UnitEmbedding.apply(indices, layer.weight, layer, draws)  # type: ignore[no-untyped-call]
    return result


def _group_norm(layer: nn.GroupNorm, draws: int, x: Tensor) -> Tensor:
    result: Tensor = _UnitGroupNorm.apply(x, layer.weight, layer.bias, layer, draws)  # type: ignore[no-untyped-call]
    return result


# Exact types: a subclass may compute something else.
_FORWARD: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
}
