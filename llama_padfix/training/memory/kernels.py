"""Stand-ins that allocate what a device's kernels do: attention, dropout, 4-bit and 8-bit layers; no numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_padfix.core.version import import_package
from llama_padfix.training.memory.tracker import as_workspace

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Context: TypeAlias = Any  # torch.autograd's context, which takes any attribute
LayerClass: TypeAlias = "Callable[[torch.nn.Linear], torch.nn.Module]"

_BLOCK = 64  # elements that share a scale in bitsandbytes' 4-bit format, and scales per second-level scale
_NESTED_BLOCK = 256


@contextlib.contextmanager
def autocast_flag(device: str) -> Iterator[None]:
    """Make `torch.is_autocast_enabled()`, which means CUDA's and which peft calls, return what it would there."""
    import torch

    before = torch.is_autocast_enabled()
    torch.set_autocast_enabled("cuda", device == "cuda")
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)


@contextlib.contextmanager
def kernels_of(device: str, autocast: torch.dtype | None) -> Iterator[None]:
    """Make attention and dropout allocate what the device's own kernels do; `backward` itself runs without.

    `autocast` is the type of mixed precision, None without.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    attend, multiply_groups = _define_attention(device, autocast), _define_grouped_mm()
    grouped = {getattr(torch.nn.functional, "grouped_mm", None), getattr(torch, "_grouped_mm", None)} - {None}

    class Kernels(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., object], types: object, args: Any = (), kwargs: Any = None
        ) -> object:
            kwargs = kwargs or {}  # both of any function
            if func is torch.nn.functional.scaled_dot_product_attention:
                return attend(*args, **kwargs)
            if func in grouped:
                return multiply_groups(*args[:2])
            if func is torch.nn.functional.dropout and device == "cuda":
                return _drop(*args, **kwargs)
            return func(*args, **kwargs)

    with Kernels():
        yield


def _drop(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    import torch

    return torch.native_dropout(x, p, True)[0] if training and p else x  # one byte an element for the mask


def _define_attention(device: str, autocast: torch.dtype | None) -> Callable[..., Tensor]:
    import torch

    on_cuda = device == "cuda"

    class Attention(torch.autograd.Function):
        # The fused kernels keep their inputs, the output and a float32 log-sum-exp, and no L x L scores.
        @staticmethod
        def forward(ctx: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            rows, heads, length, _ = query.shape
            # Laid out as the kernels do: the caller's transpose(1, 2).contiguous() is then free.
            output = torch.empty(rows, length, heads, value.shape[-1], dtype=query.dtype).transpose(1, 2)
            sums = torch.empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, mask, output, sums)
            return output

        @staticmethod
        def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            query, key, value, _, _output, sums = ctx.saved_tensors
            scratch: list[Tensor] = []
            if on_cuda:  # flash_api.cpp, mha_bwd: a float32 dQ, the row sums of dO * O, and dK and dV for all heads
                scratch = [torch.empty(query.shape, dtype=torch.float32), torch.empty_like(sums)]
                if key.shape[1] != query.shape[1]:
                    scratch += [torch.empty_like(query), torch.empty_like(query)]
            result = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None)
            del scratch
            return result

    # The other arguments change no size.
    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        if autocast is not None and torch.is_autocast_enabled("cpu"):
            query, key, value = (tensor.to(autocast) for tensor in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # scaled_dot_product_attention itself turns it into numbers, once a layer.
            attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype)
        output: Tensor = Attention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]  # untyped
        return output

    return attend


def _define_grouped_mm() -> Callable[[Tensor, Tensor], Tensor]:
    """Return what the experts of a mixture multiply with; torch's own knows fake tensors of bfloat16 alone."""
    import torch

    class GroupedMm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Context, x: Tensor, weight: Tensor) -> Tensor:
            # Laid out as they are: a gradient of another layout would be copied.
            ctx.layouts = [(part.shape, part.stride(), part.dtype) for part in (x, weight)]
            needs_x, needs_weight = ctx.needs_input_grad
            ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
            return torch.empty(x.shape[0], weight.shape[-1], dtype=x.dtype)

        @staticmethod
        def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
            first, second = (
                torch.empty_strided(shape, stride, dtype=dtype) if needed else None
                for (shape, stride, dtype), needed in zip(ctx.layouts, ctx.needs_input_grad, strict=True)
            )
            return first, second

    return GroupedMm.apply


def define_4bit(kind: str, *, double: bool, autocast: torch.dtype | None) -> LayerClass:
    """Return a class whose instance, made from a dense layer, holds and allocates what a 4-bit layer does.

    Args:
        kind: "nf4" or "fp4".
        double: The scales are quantized as well.
        autocast: The type of mixed precision, None without.
    """
    import torch

    bnb = _import_bitsandbytes()
    compute = autocast or torch.float32

    class Matmul4bit(torch.autograd.Function):
        # bitsandbytes 0.50's MatMul4Bit: the weight is written out in full in the forward and in the backward pass.
        @staticmethod
        def forward(ctx: Context, x: Tensor, layer: Any) -> Tensor:  # a layer of bitsandbytes, which is untyped
            ctx.layer = layer
            return torch.nn.functional.linear(x, layer.dequantize(x.dtype), layer.bias)

        @staticmethod
        def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor, None]:
            (gradient,) = gradients
            return torch.matmul(gradient, ctx.layer.dequantize(compute).to(gradient.dtype)), None

    # peft looks for this class.
    class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc, name-defined]  # bitsandbytes is untyped here
        def __init__(self, dense: torch.nn.Linear) -> None:
            shape = (dense.in_features, dense.out_features, dense.bias is not None)
            super().__init__(*shape, compute_dtype=compute, device="meta")
            n = dense.weight.numel()
            scales = -(-n // _BLOCK)
            packed = torch.empty((n + 1) // 2, 1, dtype=torch.uint8)
            stored = {"compress_statistics": double, "quant_type": kind, "bnb_quantized": True}
            self.weight = bnb.nn.Params4bit(packed, requires_grad=False, **stored)
            self.register_buffer("code", torch.empty(16))
            if double:
                self.register_buffer("absmax", torch.empty(scales, dtype=torch.uint8))
                self.register_buffer("nested_absmax", torch.empty(-(-scales // _NESTED_BLOCK)))
                self.register_buffer("nested_code", torch.empty(256))
                self.register_buffer("offset", torch.empty(()))
            else:
                self.register_buffer("absmax", torch.empty(scales))

        def dequantize(self, dtype: torch.dtype) -> Tensor:
            with as_workspace():
                scales = self.absmax
                if double:
                    scales = torch.empty(self.absmax.shape) + self.offset
                dense = torch.empty(self.out_features, self.in_features, dtype=dtype)
                del scales
                return dense

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = Matmul4bit.apply(x.to(compute), self)  # type: ignore[no-untyped-call]  # untyped
            return output.to(x.dtype)

    return Linear4bit


def define_int8(device: str) -> LayerClass:
    """Return a class whose instance, made from a dense layer, holds and allocates what an 8-bit layer does."""
    import torch

    bnb = _import_bitsandbytes()
    on_cpu = device == "cpu"

    class Matmul8bit(torch.autograd.Function):
        # MatMul8bitLt, and MatMul8bitFp on a CPU. Both keep the layer's input, in a plain attribute. How many
        # columns hold outliers depends on the data; none are assumed.
        @staticmethod
        def forward(ctx: Context, x: Tensor, layer: Any) -> Tensor:  # a layer of bitsandbytes, which is untyped
            ctx.layer, ctx.x = layer, x
            if on_cpu:
                return torch.nn.functional.linear(x, layer.dequantize(x.dtype), layer.bias)
            rows = x.reshape(-1, x.shape[-1])
            half = rows.to(torch.float16)
            quantized = torch.empty(rows.shape, dtype=torch.int8)
            del half
            sums = torch.empty(rows.shape[0], layer.out_features, dtype=torch.int32)
            output = torch.empty(*x.shape[:-1], layer.out_features, dtype=x.dtype)
            del quantized, sums
            return output

        @staticmethod
        def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor, None]:
            (gradient,) = gradients
            dtype = ctx.x.dtype
            return torch.matmul(gradient.to(dtype), ctx.layer.dequantize(dtype)), None

    class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc, name-defined]  # bitsandbytes is untyped here
        def __init__(self, dense: torch.nn.Linear) -> None:
            bias = dense.bias is not None
            super().__init__(
                dense.in_features, dense.out_features, bias, has_fp16_weights=False, threshold=6.0, device="meta"
            )
            self.weight = torch.nn.Parameter(torch.empty(dense.weight.shape, dtype=torch.int8), requires_grad=False)
            self.register_buffer("scales", torch.empty(dense.out_features))

        def dequantize(self, dtype: torch.dtype) -> Tensor:
            with as_workspace():
                dense = torch.empty(self.out_features, self.in_features, dtype=dtype)
                return dense.mul_(self.scales.unsqueeze(1).mul(1 / 127))

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = Matmul8bit.apply(x, self)  # type: ignore[no-untyped-call]  # untyped
            return output

    return Linear8bitLt


def _import_bitsandbytes() -> ModuleType:
    return import_package("bitsandbytes", "A quantized model needs bitsandbytes. Run: pip install bitsandbytes")
