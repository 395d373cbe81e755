"""What the images of a mini-batch share when several processes have a part of it each.

The statistics by which BatchNorm normalises are those of the whole mini-batch, and random draws for an image are those
that it would get in the whole mini-batch: the start of an attack, dropout, a strategy's own noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .errors import Refusal

Call = Callable[..., Any]


class WholeBatch(TorchFunctionMode):
    """Inside this context a part of a mini-batch is treated as what it is.

    It sees calls of torch from Python. A draw is for images when its first dimension is their number; it is made for
    all of them, in the order of the whole mini-batch, and the part is taken. Other draws are the same in all processes.

    Args:
        positions: of the images that are here in the whole mini-batch, int64 (B,).
        whole: number of images of the whole mini-batch.
    """

    def __init__(self, positions: Tensor, whole: int):
        super().__init__()
        self.positions, self.whole = positions, whole

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(self, func, *args, **(kwargs or {}))

    def holds(self, shape: Any) -> bool:
        """Whether a tensor of this shape has a row for every image that is here."""
        return len(shape) > 0 and shape[0] == len(self.positions)

    def part(self, drawn: Tensor) -> Tensor:
        """The rows (B, ...) of the images that are here, of all rows (whole, ...)."""
        return drawn[self.positions.to(drawn.device)]

    def room(self, tensor: Tensor) -> Tensor:
        """An uninitialised tensor like `tensor`, also in memory, with a row for every image of the whole mini-batch."""
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension])  # draws follow the memory
        sizes = [self.whole, *tensor.shape[1:]]
        stored = tensor.new_empty([sizes[dimension] for dimension in order])
        return stored.permute([order.index(dimension) for dimension in range(tensor.ndim)])


def _in_place(mode: WholeBatch, func: Call, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x.uniform_() and the like."""
    if not mode.holds(tensor.shape):
        return func(tensor, *args, **kwargs)
    return tensor.copy_(mode.part(func(mode.room(tensor), *args, **kwargs)))


def _like(mode: WholeBatch, func: Call, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """torch.rand_like(x) and the like."""
    if not mode.holds(tensor.shape):
        return func(tensor, *args, **kwargs)
    return mode.part(func(mode.room(tensor), *args, **kwargs))


def _of_size(mode: WholeBatch, func: Call, *args: Any, **kwargs: Any) -> Tensor:
    """torch.rand(2, 3), torch.rand((2, 3)) and torch.rand(size=(2, 3))."""
    size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
    whole = [mode.whole, *size[1:]] if mode.holds(size) else size
    drawn = func(whole, **kwargs)
    return mode.part(drawn) if mode.holds(size) else drawn


def _rows(mode: WholeBatch, func: Call, *args: Any, **kwargs: Any) -> Any:
    """torch.bernoulli(x) and others that answer for each row by itself; rows of other processes are made up."""

    def completed(given: Any) -> Any:
        if not torch.is_tensor(given) or not mode.holds(given.shape):
            return given
        positions = mode.positions.to(given.device)
        return mode.room(given).fill_(1).index_copy(0, positions, given)

    whole = [completed(given) for given in args], {name: completed(given) for name, given in kwargs.items()}
    if all(given is new for given, new in zip((*args, *kwargs.values()), (*whole[0], *whole[1].values()), strict=True)):
        return func(*args, **kwargs)
    return mode.part(func(*whole[0], **whole[1]))


def _attention(
    mode: WholeBatch,
    func: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *args: Any,
    **kwargs: Any,
) -> Any:
    given = query, key, value, attn_mask, dropout_p, *args
    return _rows(mode, func, *given, **kwargs) if dropout_p > 0 else func(*given, **kwargs)


def _alone(mode: WholeBatch, func: Call, *args: Any, **kwargs: Any) -> Any:
    """What draws in an order that the parts cannot follow: by the sign of its input, or with images not in its rows."""
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    if given.arguments["training"] and given.arguments.get("dropout_p", 1) > 0:
        raise Refusal(f"{func.__name__} draws numbers that several processes cannot share.", "one process")
    return func(*args, **kwargs)


def _size_last(mode: WholeBatch, func: Call, *args: Any, **kwargs: Any) -> Tensor:
    """torch.randint(10, (2, 3)), torch.randint(0, 10, (2, 3)), torch.normal(0.0, 1.0, (2, 3)) and by name."""
    size = kwargs.pop("size", None)
    *bounds, size = (*args, size) if size is not None else args
    drawn = func(*bounds, size=[mode.whole, *size[1:]] if mode.holds(size) else size, **kwargs)
    return mode.part(drawn) if mode.holds(size) else drawn


def _normal(mode: WholeBatch, func: Call, *args: Any, **kwargs: Any) -> Any:
    """torch.normal with tensors of means or deviations, or with a size."""
    by_tensor = any(map(torch.is_tensor, (*args, *kwargs.values())))
    return (_rows if by_tensor else _size_last)(mode, func, *args, **kwargs)


def _dropout(
    mode: WholeBatch, func: Call, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or not mode.holds(input.shape):
        return func(input, p, training, inplace)
    factor = mode.part(func(mode.room(input).fill_(1), p, True))
    return input.mul_(factor) if inplace else input * factor


def _batch_norm(
    mode: WholeBatch,
    func: Call,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise (B, C, ...) by mean and biased variance over the whole mini-batch; gradients flow through both."""
    if not training:
        return func(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dimensions = [0, *range(2, input.ndim)]
    shape = [1, -1, *[1] * (input.ndim - 2)]
    here = input.new_tensor([input.numel() / input.shape[1]])
    *sums, count = all_sum(torch.cat([input.sum(dimensions), here])).split([input.shape[1], 1])
    mean = sums[0] / count
    centred = input - mean.view(shape)
    variance = all_sum(centred.square().sum(dimensions)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    scale = torch.rsqrt(variance + eps)
    output = centred * (scale if weight is None else scale * weight).view(shape)
    return output if bias is None else output + bias.view(shape)


def _instance_norm(
    mode: WholeBatch,
    func: Call,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Each image is normalised by itself, but the running statistics move by the mean over all."""
    output = func(input, running_mean, running_var, *args, **kwargs)
    for running in (running_mean, running_var):
        if running is not None:
            running.copy_(all_sum(running * (len(mode.positions) / mode.whole)))
    return output


_RULES: dict[Call, Call] = {
    **dict.fromkeys(
        (
            torch.Tensor.uniform_,
            torch.Tensor.normal_,
            torch.Tensor.bernoulli_,
            torch.Tensor.exponential_,
            torch.Tensor.log_normal_,
            torch.Tensor.cauchy_,
            torch.Tensor.geometric_,
            torch.Tensor.random_,
        ),
        _in_place,
    ),
    **dict.fromkeys((torch.rand_like, torch.randn_like, torch.randint_like), _like),
    **dict.fromkeys((torch.rand, torch.randn), _of_size),
    torch.randint: _size_last,
    torch.normal: _normal,
    **dict.fromkeys((functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d), _dropout),
    **dict.fromkeys(
        (
            torch.bernoulli,
            torch.multinomial,
            torch.Tensor.bernoulli,
            torch.Tensor.multinomial,
            torch.dropout,
            functional.gumbel_softmax,
            functional.alpha_dropout,
            functional.feature_alpha_dropout,
        ),
        _rows,
    ),
    functional.scaled_dot_product_attention: _attention,
    **dict.fromkeys((functional.multi_head_attention_forward, functional.rrelu), _alone),
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
}


def all_sum(values: Tensor) -> Tensor:
    """The sum over all processes; what each of them does with it flows back into every summand."""
    found: Tensor = _AllSum.apply(values)
    return found


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient)
