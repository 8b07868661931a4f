"""Stand-ins that allocate what a device's kernels do: attention, dropout, 4-bit and 8-bit layers; no numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.training.memory.step_plan_record import StepPlan
from llama_padfix.training.memory.tracker import as_workspace

__all__ = ["autocast_flag", "define_4bit", "define_int8", "kernels_of"]

_BLOCK = 64  # elements that share a scale in bitsandbytes' 4-bit format, and scales per second-level scale
_NESTED_BLOCK = 256


@contextlib.contextmanager
def autocast_flag(plan: StepPlan) -> Iterator[None]:
    """Let `torch.is_autocast_enabled()`, which peft asks and which means CUDA's, say what it would on the device."""
    import torch

    before = torch.is_autocast_enabled()
    torch.set_autocast_enabled("cuda", plan.device == "cuda")
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)


@contextlib.contextmanager
def kernels_of(plan: StepPlan) -> Iterator[None]:
    """Let attention and dropout allocate what the device's own kernels do; `backward` itself runs without."""
    import torch
    from torch.overrides import TorchFunctionMode

    attend = _define_attention(plan)

    class Kernels(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.nn.functional.scaled_dot_product_attention:
                return attend(*args, **kwargs)
            if func is torch.nn.functional.dropout and plan.device == "cuda":
                return _drop(torch, *args, **kwargs)
            return func(*args, **kwargs)

    with Kernels():
        yield


def _drop(torch: Any, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return torch.native_dropout(x, p, True)[0] if training and p else x  # one byte an element for the mask


def _define_attention(plan: StepPlan) -> Callable[..., Any]:
    import torch

    on_cuda = plan.device == "cuda"

    class Attention(torch.autograd.Function):
        # The fused kernels keep their inputs, the output and a float32 log-sum-exp, and no L x L scores.
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
            rows, heads, length, _ = query.shape
            # Laid out as the kernels do: the caller's transpose(1, 2).contiguous() is then free.
            output = torch.empty(rows, length, heads, value.shape[-1], dtype=query.dtype).transpose(1, 2)
            sums = torch.empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, mask, output, sums)
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            query, key, value, _, _output, sums = ctx.saved_tensors
            scratch: list[Any] = []
            if on_cuda:  # flash_api.cpp, mha_bwd: a float32 dQ, the row sums of dO * O, and dK and dV for all heads
                scratch = [torch.empty(query.shape, dtype=torch.float32), torch.empty_like(sums)]
                if key.shape[1] != query.shape[1]:
                    scratch += [torch.empty_like(query), torch.empty_like(query)]
            answer = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None)
            del scratch
            return answer

    def attend(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: Any = None,
        enable_gqa: bool = False,
    ) -> Any:
        if plan.autocast is not None and torch.is_autocast_enabled("cpu"):
            query, key, value = (tensor.to(plan.autocast) for tensor in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # scaled_dot_product_attention itself turns it into numbers, for every layer anew.
            attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype)
        return Attention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]  # apply is untyped

    return attend


def define_4bit(plan: StepPlan) -> Any:
    """Return a class whose instance, made from a dense layer, holds and allocates what a 4-bit layer does."""
    import torch

    bnb = import_bitsandbytes()
    compute = plan.autocast or torch.float32

    class Matmul(torch.autograd.Function):
        # bitsandbytes 0.50's MatMul4Bit: the weight is written out in full on the way there and on the way back.
        @staticmethod
        def forward(ctx: Any, x: Any, layer: Any) -> Any:
            ctx.layer = layer
            return torch.nn.functional.linear(x, layer.dequantize(x.dtype), layer.bias)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            return torch.matmul(gradient, ctx.layer.dequantize(compute).to(gradient.dtype)), None

    # The class that peft asks for.
    class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc, name-defined]  # bitsandbytes is untyped here
        def __init__(self, dense: Any) -> None:
            super().__init__(
                dense.in_features, dense.out_features, dense.bias is not None, compute_dtype=compute, device="meta"
            )
            n = dense.weight.numel()
            scales = -(-n // _BLOCK)
            packed = torch.empty((n + 1) // 2, 1, dtype=torch.uint8)
            self.weight = bnb.nn.Params4bit(
                packed,
                requires_grad=False,
                compress_statistics=plan.double_quantization,
                quant_type=plan.quantization,
                bnb_quantized=True,
            )
            self.register_buffer("code", torch.empty(16))
            if plan.double_quantization:
                self.register_buffer("absmax", torch.empty(scales, dtype=torch.uint8))
                self.register_buffer("nested_absmax", torch.empty(-(-scales // _NESTED_BLOCK)))
                self.register_buffer("nested_code", torch.empty(256))
                self.register_buffer("offset", torch.empty(()))
            else:
                self.register_buffer("absmax", torch.empty(scales))

        def dequantize(self, dtype: Any) -> Any:
            with as_workspace():
                scales = self.absmax
                if plan.double_quantization:
                    scales = torch.empty(self.absmax.shape) + self.offset
                dense = torch.empty(self.out_features, self.in_features, dtype=dtype)
                del scales
                return dense

        def forward(self, x: Any) -> Any:
            return Matmul.apply(x.to(compute), self).to(x.dtype)  # type: ignore[no-untyped-call]  # apply is untyped

    return Linear4bit


def define_int8(plan: StepPlan) -> Any:
    """Return a class whose instance, made from a dense layer, holds and allocates what an 8-bit layer does."""
    import torch

    bnb = import_bitsandbytes()
    on_cpu = plan.device == "cpu"

    class Matmul(torch.autograd.Function):
        # MatMul8bitLt, and MatMul8bitFp on a CPU. Both keep the layer's input, in a plain attribute. How many
        # columns hold outliers depends on the data; none are assumed.
        @staticmethod
        def forward(ctx: Any, x: Any, layer: Any) -> Any:
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
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            dtype = ctx.x.dtype
            return torch.matmul(gradient.to(dtype), ctx.layer.dequantize(dtype)), None

    class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc, name-defined]  # bitsandbytes is untyped here
        def __init__(self, dense: Any) -> None:
            bias = dense.bias is not None
            super().__init__(
                dense.in_features, dense.out_features, bias, has_fp16_weights=False, threshold=6.0, device="meta"
            )
            self.weight = torch.nn.Parameter(torch.empty(dense.weight.shape, dtype=torch.int8), requires_grad=False)
            self.register_buffer("scales", torch.empty(dense.out_features))

        def dequantize(self, dtype: Any) -> Any:
            with as_workspace():
                dense = torch.empty(self.out_features, self.in_features, dtype=dtype)
                return dense.mul_(self.scales.unsqueeze(1).mul(1 / 127))

        def forward(self, x: Any) -> Any:
            return Matmul.apply(x, self)  # type: ignore[no-untyped-call]  # apply is untyped

    return Linear8bitLt


def import_bitsandbytes() -> Any:
    """Return the package bitsandbytes, or raise `PadfixError` with the line that installs it."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise PadfixError("A quantised model needs bitsandbytes. Run: pip install bitsandbytes") from error
    return bitsandbytes
