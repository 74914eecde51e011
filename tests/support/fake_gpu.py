"""A GPU that is none: tensors that know their shape, type and device, and hold no numbers.

What torch's `FakeTensorMode` refuses here, a GPU would: operands on two devices, wrong types and
shapes. Layouts of attention are those of CUDA's kernels. A CPU build of torch can pretend to one
other device alone, "lazy"; branches for "cuda" by name are not taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedConfig

from pytest_kvbench.server import ragged, seeing
from pytest_kvbench.server.model import LocalModel
from tests.support.tiny_model import tiny_model

ops: Any = torch.ops.aten
GPU, SECOND = torch.device("lazy", 0), torch.device("lazy", 1)
_COPIES = (ops._to_copy.default, ops.copy_.default)
_BY_NUMBERS = (
    ops._local_scalar_dense.default,
    ops.nonzero.default,
    ops.masked_select.default,
    ops._unique2.default,
    ops.unique_consecutive.default,
    ops.repeat_interleave.Tensor,
)
"""Operations whose result's size, or the program's way, depends on numbers on the device."""


class FakeGpu(FakeTensorMode):
    """Notes what makes a program wait for its device; a number that is read is 0, a truth True."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, FakeTensor)]
        for tensor in tensors:
            tensor.constant = None  # else torch works with the numbers that it knows
        if self._waits(func, args, kwargs, tensors):
            self.waits.append(str(func))
        if func is ops._local_scalar_dense.default:
            return args[0].dtype is torch.bool or (0.0 if args[0].dtype.is_floating_point else 0)
        return super().dispatch(func, types, args, kwargs)

    def _waits(self, func: Any, args: Any, kwargs: Any, tensors: list[FakeTensor]) -> bool:
        devices = {tensor.fake_device for tensor in tensors}
        if func in _COPIES:
            devices |= {torch.device(kwargs["device"])} if kwargs.get("device") else set()
            return len(devices) > 1
        chosen = args[1] if func is ops.index.Tensor or func is ops.index_put_.default else ()
        return func in _BY_NUMBERS or any(
            one is not None and one.dtype is torch.bool for one in chosen
        )


class _NoGuards(TorchFunctionMode):
    """`torch.tensor(..., device=...)` asks the driver itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None) if func is torch.tensor else None
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Shapes, types, devices and layouts as of CUDA's kernels, and what they refuse."""
    assert query.device == key.device == value.device
    assert query.dtype == key.dtype == value.dtype
    assert query.shape[1] % key.shape[1] == 0
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    if attn_mask is None and query.dtype is not torch.float32:
        out = ops._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, scale=scale
        )
        return out[0]
    if query.shape[1] != key.shape[1]:  # torch's own way, which makes whole matrices
        key, value = (
            one.repeat_interleave(query.shape[1] // key.shape[1], 1) for one in (key, value)
        )
    if attn_mask is not None:
        assert attn_mask.device == query.device
        assert attn_mask.dtype in (torch.bool, query.dtype)
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2]).to(query.dtype)
    out = ops._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, False, is_causal=is_causal, scale=scale
    )
    return out[0]


@contextlib.contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """What is done inside is done on such a GPU."""

    for module in (ragged, seeing, functional):
        monkeypatch.setattr(module, "scaled_dot_product_attention", attention)
    # A tensor of its own kind, which knows no fake ones: what it stands for changes no shape.
    monkeypatch.setattr(ragged, "causal_lower_right", lambda *sizes: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    with FakeGpu() as gpu, _NoGuards(), torch.inference_mode():
        yield gpu


def faked(gpu: FakeGpu, config: PreTrainedConfig, dtype: torch.dtype) -> LocalModel:
    """A model of any kind, on such a GPU."""
    ragged.register()
    config._attn_implementation = ragged.ATTENTION
    with unset_fake_temporarily():
        made = tiny_model()
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config).eval().to(dtype)
        put_on(gpu, network, GPU)
    return replace(made, network=network, device=GPU)


def put_on(gpu: FakeGpu, module: torch.nn.Module, device: torch.device) -> None:
    """All tensors of a module, on a device."""

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        made = FakeTensor(gpu, torch.empty_like(tensor, device="meta"), device)
        is_weight = isinstance(tensor, torch.nn.Parameter)
        return torch.nn.Parameter(made, requires_grad=False) if is_weight else made

    with unset_fake_temporarily():
        for one in module.modules():
            for held in (one._parameters, one._buffers):
                held.update({name: fake(x) for name, x in held.items() if x is not None})


def on_two(gpu: FakeGpu, model: LocalModel) -> LocalModel:
    """All but its first layer on a second such GPU, with accelerate's hooks as for "auto"."""
    network: Any = model.network
    for index, layer in enumerate(network.model.layers):
        put_on(gpu, layer, SECOND if index else GPU)
        _follow(layer, SECOND if index else GPU)
    for module in (network.model.embed_tokens, network.model.rotary_emb, network.model.norm):
        _follow(module, GPU)
    _follow(network.lm_head, GPU)
    _follow(network, GPU, io_same_device=True)
    return model


def _follow(module: Any, device: torch.device, *, io_same_device: bool = False) -> None:
    """Let what a module is given be moved to its device."""
    hook = AlignDevicesHook(device, io_same_device=io_same_device, skip_keys="past_key_values")
    hook.init_hook = lambda module: module  # its weights are there
    add_hook_to_module(module, hook)
