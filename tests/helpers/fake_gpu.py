"""A GPU without hardware: torch's fake tensors on a made-up device, and a record of what is copied off it.

Fake tensors have shapes, dtypes and devices but no values, and refuse operations on tensors of two devices. Where a
value is needed, the function of clvq_hf that asked for it is recorded, and gets an answer: one run finds every place.
A process that has called `install` believes in this device for good: give it its own process.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import clvq_hf

PACKAGE = str(Path(clvq_hf.__file__).parent)
TORCH = str(Path(torch.__file__).parent)
# Fake CUDA tensors need a torch that was built for CUDA, even to be indexed.
NAME = "fakegpu"


def install() -> None:
    """Make the device known to torch."""
    module = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    )
    _setup_privateuseone_for_python_backend(NAME, backend_module=module)
    torch._C._set_only_lift_cpu_tensors(True)  # new tensors are made on the CPU and moved, where modes see it


class FakeGpu(TorchDispatchMode):
    """A context in which the device exists; `copies` holds the places that read values from it."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device(NAME, 0)
        self.copies: set[str] = set()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> "FakeGpu":
        self._fake.__enter__()
        return super().__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        self._fake.__exit__(*exc_info)

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device, of the same shape and dtype."""
        return FakeTensor(self._fake, torch.empty_like(tensor, device="meta"), self.device)

    def module(self, module: torch.nn.Module) -> torch.nn.Module:
        """A module whose parameters and buffers are moved to the device."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = torch.nn.Parameter(self.tensor(parameter.data), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.tensor(buffer)
        return module

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # On its way to the device; torch would look for its kernels.
        if function is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return self.tensor(torch.empty_like(args[0], dtype=kwargs.get("dtype"), device="meta"))
        if torch.device(kwargs.get("device") or "cpu").type == "cpu" and not any(
            isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))
        ):
            with no_dispatch():  # on the CPU alone: tensors there have values
                return function(*args, **kwargs)
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.device == self.device:
            aten = torch.ops.aten
            if function is aten._local_scalar_dense.default:
                self._record()
                return True if first.dtype == torch.bool else 1.0 if first.is_floating_point() else 1
            if function is aten._to_copy.default and torch.device(kwargs.get("device") or NAME).type == "cpu":
                self._record()
                return self._values(first, kwargs.get("dtype"))
            if function is aten.nonzero.default:  # as if all were true: shapes must be known, values not
                return self.tensor(torch.empty(first.numel(), first.ndim, dtype=torch.int64, device="meta"))
            if function is aten.index.Tensor and [index.dtype for index in args[1] if index is not None] == [
                torch.bool
            ]:
                place, mask = next((place, index) for place, index in enumerate(args[1]) if index is not None)
                shape = (*first.shape[:place], mask.numel(), *first.shape[place + mask.ndim :])
                return self.tensor(torch.empty(shape, dtype=first.dtype, device="meta"))
        if function is torch.ops.aten.copy_.default and first.device.type == "cpu" and args[1].device == self.device:
            self._record()
            return first
        return function(*args, **kwargs)

    def _values(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        # Not all the same: clusters of equal states do not exist.
        with no_dispatch():
            return (torch.arange(tensor.numel()).reshape(tensor.shape) % 97).to(dtype or tensor.dtype)

    def _record(self) -> None:
        """Note the function that called torch, if it is one of clvq_hf."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith((TORCH, "<", __file__)):
            frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE).with_suffix("").as_posix()
            self.copies.add(f"{file}: {frame.f_code.co_qualname}")
