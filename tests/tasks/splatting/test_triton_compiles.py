"""What Triton interprets without a GPU, its compiler and assembler take as well.

The interpreter takes more than they do. Each kernel is compiled for the arguments that fits and losses call it with.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.step_cost import splat_step
from tasks.splatting.loss.triton_loss import triton_photometric_loss
from tasks.splatting.render.triton_colors import activated

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("the other tests of kernels compile them, on a machine with a GPU", allow_module_level=True)

ROOT = Path(__file__).parents[3]
CAPABILITIES = (80, 90, 100)  # A100, H100 and H200, B200
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
    torch.int32: "*i32",
    torch.int64: "*i64",
}

COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for module, name, signature, constants, options in json.load(sys.stdin):
    kernel = getattr(importlib.import_module(module), name)
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", int(sys.argv[1]), 32),
        options=options,
    )
    print(name, len(compiled.asm["cubin"]))
"""


def signature_of(function, args, kwargs):
    """Return the types of a call's arguments by name, and the values of those that Triton compiles in."""
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    types, constants = {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if "constexpr" in str(parameter.annotation) or value is None or (type(value) is int and value == 1):
            types[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[name] = TYPES[value.dtype]
        else:
            types[name] = "fp32" if isinstance(value, float) else "i32"
    return types, constants


@pytest.fixture(scope="module")
def calls():
    """The calls of kernels in fits and losses, one of each kind."""
    from triton.runtime.interpreter import InterpretedFunction

    found = {}
    plain = InterpretedFunction.run

    def run(kernel, *args, grid, warmup, **kwargs):
        options = {name: kwargs[name] for name in ("enable_fp_fusion",) if name in kwargs}
        own = {name: value for name, value in kwargs.items() if name not in options}
        types, constants = signature_of(kernel.fn, args, own)
        row = [kernel.fn.__module__, kernel.fn.__name__, types, constants, options]
        found[json.dumps(row)] = row
        return plain(kernel, *args, grid=grid, warmup=warmup, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", run)
        for degree in (0, 3):
            splat_step(steps=1, opacity_reg=0.01, scale_reg=0.01, sh_degree=degree)
        splat_step(steps=1, pose_opt=True, exposure_opt=True, antialiased=True, strategy="default")
        activated(torch.zeros(2, 3), torch.zeros(2))
        for taken in (torch.rand(12, 13, 3), torch.zeros(12, 13, 3, dtype=torch.uint8)):
            for mask in (None, torch.ones(12, 13, dtype=torch.bool)):
                for share in (0.0, 0.2):
                    drawn = torch.rand(12, 13, 3, requires_grad=True)
                    triton_photometric_loss(drawn, taken, mask, share, n_counted=156).backward()
                    with torch.no_grad():
                        triton_photometric_loss(drawn, taken, mask, share, n_counted=156)
    return list(found.values())


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles(calls, capability, tmp_path):
    names = {row[1] for row in calls}
    losses, steps = {"_compare", "_gather", "_total"}, {"_adam_six", "_shake", "_weigh", "_unweigh"}
    assert names == {"_activate", "_color", "_back"} | losses | steps
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environ |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    done = subprocess.run(command, input=json.dumps(calls), env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    sizes = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _ in sizes} == names
    assert all(int(size) > 1000 for _, size in sizes)
