"""A device that is none: its tensors lie apart from the CPU's, and the CPU computes them.

What a GPU refuses is refused: an operation on tensors of two places. What it launches and what waits for it is counted.
So both are seen on a machine without a GPU; how fast one is, is not.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"),
    *("bincount", "repeat_interleave", "histc"),
}
"""Operations that need a value or a size from the device before the program can go on."""
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "view", "_unsafe_view", "reshape", "as_strided", "alias"),
    *("select", "slice", "unsqueeze", "squeeze", "permute", "transpose", "t", "expand", "detach", "split", "unbind"),
    *("split_with_sizes", "lift_fresh", "scalar_tensor", "is_same_size", "unsafe_split", "chunk", "view_as"),
}
"""Making room, views, and Python's numbers: nothing is launched for them."""
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # indices may lie on the host
_CPU = torch.device("cpu")


class _Backend(_DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return the formats of mixed precision, which torch wants to know before it computes in float32."""
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("far", _Backend())
FAR = torch.device("far:0")


class FarTensor(Tensor):
    """A tensor on the device; `near` has its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "FarTensor":
        """Return a tensor of the same shape and layout."""
        offset = near.storage_offset()
        far = Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=offset, dtype=near.dtype, device=FAR
        )
        far.near = near
        return far

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Give values that torch reads from the CPU's memory alone."""
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if getattr(func, "__name__", "") == "__index__":  # of torch.tensor([a scalar]), which lets nobody look on
            return args[0].near.__index__()
        if func is Tensor.numpy:
            raise TypeError(f"can't convert {FAR} device type tensor to numpy, use Tensor.cpu() first")
        with torch._C.DisableTorchFunctionSubclass():  # what comes from the CPU stays a tensor of the CPU
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute where nobody counts: in a backward pass, or where a tensor outlives its `Far`."""
        return _computed(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"far({self.near!r})"


class Far(TorchDispatchMode):
    """While it is entered, tensors can be made on `FAR`, and what is asked of it is counted by name."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._before: list[bool] = []

    def __enter__(self) -> "Far":
        """Begin."""
        self._before.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=FAR) is made on the CPU, then sent
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        """End."""
        super().__exit__(*exc)
        torch._C._set_only_lift_cpu_tensors(self._before.pop())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operation and count it."""
        if func._can_decompose():  # in inference mode torch has not taken such a one apart yet
            with self:
                return func.decompose(*args, **(kwargs or {}))
        out = _computed(func, args, kwargs or {})
        name = func.overloadpacket.__name__
        if any(isinstance(value, FarTensor) for value in tree_leaves((args, kwargs, out))):
            if wait := _wait(name, args, kwargs or {}, out):
                self.waits[wait] += 1
            elif name not in FREE:
                self.launches[name] += 1
        return out

    def clear(self) -> None:
        """Begin to count anew."""
        self.launches.clear()
        self.waits.clear()


def _wait(name: str, args: Any, kwargs: dict[str, Any], out: Any) -> str:
    """Return what an operation waits for, "" where it does not."""
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        from_far, to_far = isinstance(source, FarTensor), isinstance(out, FarTensor)
        if from_far == to_far or to_far and (kwargs.get("non_blocking") or args[2:3] == (True,)):
            return ""
        return f"{name} to the device" if to_far else f"{name} from the device"
    if name in _INDEXED:
        given = [index for index in args[1] if index is not None]
        filled = name != "index" and args[2].numel() == 1  # then torch fills by the mask instead
        if any(index.dtype in (torch.bool, torch.uint8) for index in given) and not filled:
            return f"{name} by a mask"
        return f"{name} by the host's" if any(not isinstance(index, FarTensor) for index in given) else ""
    return name if name in WAITS else ""


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    far = [value for value in tensors if isinstance(value, FarTensor)]
    if far and name not in ("_to_copy", "copy_"):
        held = tensors[:1] if name in _INDEXED else tensors
        if any(not isinstance(value, FarTensor) and value.ndim > 0 for value in held):
            raise RuntimeError(f"{func}: expected all tensors on one device, found {FAR} and cpu")
    goes_far = bool(far)
    if (wanted := kwargs.get("device")) is not None:
        goes_far = torch.device(wanted).type == FAR.type
        kwargs = {**kwargs, "device": _CPU}
    elif name == "copy_":
        goes_far = isinstance(args[0], FarTensor)
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    out = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if not goes_far:
        return out if name != "copy_" else args[0]
    # In inference mode a view of a tensor from outside is none of inference.
    with torch.inference_mode(torch.is_inference_mode_enabled() and all(value.is_inference() for value in far)):
        out = tree_map(lambda value: FarTensor(value) if isinstance(value, Tensor) else value, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if far else out


def _near(value: Any) -> Any:
    return value.near if isinstance(value, FarTensor) else value
