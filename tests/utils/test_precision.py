"""Half precision is offered where it was measured, and a device that is slow in it is named."""

import pytest
import torch

from utils.precision import autocast, check_precision, is_fast, warn_if_slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trunk_that_was_not_measured_is_refused_by_name(precision):
    with pytest.raises(ValueError, match=rf"--precision {precision}: .*timm:resnet18.*not been measured.*swin_t"):
        check_precision(precision, "timm:resnet18")
    check_precision("fp32", "timm:resnet18")
    check_precision(precision, "timm:mobilenetv4_conv_small.e2400_r224_in1k")


@pytest.mark.parametrize("has", [True, False])
def test_a_processor_without_the_arithmetic_is_named(has, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": has})
    assert is_fast("bf16", CPU) == has
    warn_if_slow("bf16", CPU)
    assert ("avx512_bf16" in capsys.readouterr().err) != has
    for always in (("fp32", CPU), ("bf16", torch.device("cuda"))):
        assert is_fast(*always)


def test_autocast_is_on_only_for_half_precision():
    with autocast("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")
    with autocast("bf16", CPU):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
