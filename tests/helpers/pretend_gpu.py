"""A GPU that is only pretended: its tensors lie in the CPU's memory, and it refuses what a GPU refuses.

PyTorch lets a program bring a device of its own. The CPU's kernels do the work of this one, autograd and `torch.func`
included. An operation on tensors of both devices is an error, but where CUDA allows it (copies, scalars, indices), and
what the host waits for is counted. It has no streams, graphs or autocast: those need a real GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

WAITS: Counter[str] = Counter()
"""What the host has waited for, by operation."""
COPIES = {"aten::copy_", "aten::_to_copy"}
WITH_INDICES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
ASK_FOR_VALUES = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
RESIZE_THEIR_OUTPUT = {"arange": ("", "start", "start_step"), "randperm": ("",), "linspace": ("",), "eye": ("", "m")}


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class PretendTensor(torch.Tensor):
    """A tensor of the pretended GPU. `raw` is its content, on the CPU."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> PretendTensor:
        sizes = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, raw.size(), device=PRETEND_GPU, **sizes)
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _on_the_cpu(operation, *args, **(kwargs or {}))

    # What PyTorch does not ask a wrapped tensor for
    def tolist(self) -> Any:
        WAITS["tolist"] += 1
        return self.detach().raw.tolist()

    def numpy(self) -> Any:
        raise TypeError("can't convert a tensor of the pretended GPU to numpy: use Tensor.cpu() first")

    def data_ptr(self) -> int:
        return self.detach().raw.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().raw.__reduce_ex__(protocol)


def _on_the_cpu(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation of the pretended GPU by the CPU's kernel.

    Raises:
        RuntimeError: its tensors are on different devices.
    """
    name = operation._schema.name
    values, spec = pytree.tree_flatten((args, kwargs))
    wrapped = {id(value.raw): value for value in values if isinstance(value, PretendTensor)}
    devices = [value for value in values if isinstance(value, torch.device)]
    strangers = [value for value in values if _is_on_the_cpu(value)]
    if wrapped and strangers and name not in COPIES | WITH_INDICES:
        shapes = [tuple(stranger.shape) for stranger in strangers]
        raise RuntimeError(f"expected all tensors to be on the same device: {name} was given {shapes} on the CPU")
    stays = devices[0].type == PRETEND_GPU.type if devices else bool(wrapped)
    if name in ASK_FOR_VALUES or (wrapped and not stays):
        WAITS[name] += 1
    args, kwargs = pytree.tree_unflatten([_raw(value) for value in values], spec)
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    if name == "aten::_efficientzerotensor":  # has no memory, which is seen by the dispatcher alone
        operation = torch.ops.aten.zeros.default
    results = operation(*args, **kwargs)
    return pytree.tree_map_only(Tensor, lambda raw: _wrap(raw, wrapped), results) if stays else results


def _is_on_the_cpu(value: Any) -> bool:
    """Whether it is a tensor of the CPU with dimensions: scalars go with tensors of any device."""
    return isinstance(value, Tensor) and not isinstance(value, PretendTensor) and value.dim() > 0


def _raw(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _wrap(raw: Tensor, wrapped: dict[int, PretendTensor]) -> PretendTensor:
    """A tensor with this content: the same one after an operation in place, which may have changed its shape."""
    same = wrapped.get(id(raw))
    if same is None:
        return PretendTensor(raw)
    if (same.size(), same.stride()) != (raw.size(), raw.stride()):
        same.data = PretendTensor(raw)
    return same


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if not isinstance(target, PretendTensor):
        WAITS["aten::_copy_from"] += 1
    _raw(target).copy_(_raw(source))
    return target


def _made_on_the_cpu(operation: Any) -> Callable[..., PretendTensor]:
    """In place of a function that makes an empty tensor and resizes it, which a wrapped tensor cannot follow."""

    def make(*args: Any, device: Any = None, pin_memory: bool | None = None, **kwargs: Any) -> PretendTensor:
        return PretendTensor(operation(*args, device="cpu", **kwargs))

    return make


_setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
PRETEND_GPU = torch.device("pretend", 0)
_LIBRARIES = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]  # in force while they exist
_LIBRARIES[0].fallback(_on_the_cpu, "PrivateUse1")
_LIBRARIES[1].impl("_copy_from", _copy_from, "PrivateUse1")
for _name, _overloads in RESIZE_THEIR_OUTPUT.items():
    for _overload in _overloads:
        _operation = getattr(getattr(torch.ops.aten, _name), _overload or "default")
        _LIBRARIES[1].impl(".".join(filter(None, (_name, _overload))), _made_on_the_cpu(_operation), "PrivateUse1")
