"""The machine: versions, and the two ceilings, bytes and products a second."""

from __future__ import annotations

import os
import platform
from functools import partial

import torch

from icon_dist.training.precision import use_precision
from tests.gpu.setting import Row, Rows, Setting


def ground(setting: Setting) -> Rows:
    yield Row("versions", f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    yield Row("cores", len(os.sched_getaffinity(0)))
    if setting.cuda:
        free, whole = torch.cuda.mem_get_info()
        yield Row("card", torch.cuda.get_device_name())
        yield Row("cuDNN", str(torch.backends.cudnn.version()))
        yield Row("free memory", free / 2**30, "GiB", note=f"of {whole / 2**30:.1f}")
    size = 1 << (20 if setting.tiny else 30)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    ms = setting.milliseconds(partial(target.copy_, source))
    yield Row("copy", 2 * size / ms / 1e9, "TB/s", note="read and written")
    del source, target
    side = 128 if setting.tiny else 8192
    for name, dtype, precision in (
        ("product bf16", torch.bfloat16, "auto"),
        ("product TF32", torch.float32, "auto"),
        ("product fp32", torch.float32, "fp32"),
    ):
        use_precision(precision)
        a, b = (torch.randn(side, side, device=setting.device).to(dtype) for _ in range(2))
        ms = setting.milliseconds(lambda a=a, b=b: a @ b)
        yield Row(name, 2 * side**3 / ms / 1e9, "TFLOP/s")
