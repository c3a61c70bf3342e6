"""Half precision for scoring: where it is offered, and what it costs."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from models.backbones import HALF_PRECISION
from utils.distributed import rank

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_FEATURES = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}  # of x86 processors


def add_precision(parser, of: str = "the trunks") -> None:
    """Add the precision of scoring."""
    parser.add_argument(
        "--precision",
        choices=list(DTYPES),
        default="fp32",
        help=f"precision of {of}: bf16 and fp16 are faster where the hardware computes in them; bf16 moved scores by "
        "less than 1 %% of the opinions' s.d. on average (docs/performance.md), fp16 was not measured; pooling, head "
        "and map stay float32",
    )


def check_precision(precision: str, backbone: str) -> None:
    """Check that a trunk may compute in a precision, a key of DTYPES.

    Raises:
        ValueError: half precision has not been measured for this trunk.
    """
    if precision != "fp32" and backbone.split(".")[0] not in HALF_PRECISION:
        raise ValueError(
            f"--precision {precision}: what half precision costs {backbone} has not been measured, only for "
            f"{', '.join(HALF_PRECISION)}; use --precision fp32"
        )


def is_fast(precision: str, device: torch.device) -> bool:
    """Return whether a device computes in a precision itself; only x86 processors are known not to."""
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" and precision != "fp32" else {}
    return capabilities.get("architecture") != "x86_64" or any(map(capabilities.get, CPU_FEATURES[precision]))


def warn_if_slow(precision: str, device: torch.device) -> None:
    """Warn on standard error, on rank 0, of a precision that a device does not compute in itself."""
    if rank() == 0 and not is_fast(precision, device):
        print(
            f"warning: this processor has no {precision} arithmetic ({' or '.join(CPU_FEATURES[precision])}): "
            f"--precision {precision} is likely to be slower than fp32 here",
            file=sys.stderr,
        )


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return a context in which trunks compute in a precision."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])
