"""Half precision is offered where it was measured, and a device that is slow in it is named."""

import pytest
import torch

from utils.precision import autocast, check_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trunk_that_was_not_measured_is_refused_by_name(precision):
    with pytest.raises(ValueError, match=rf"--precision {precision}: .*timm:resnet18.*not been measured.*swin_t"):
        check_precision(precision, "timm:resnet18", CPU)
    check_precision("fp32", "timm:resnet18", CPU)


@pytest.mark.parametrize(("has", "warns"), [(True, False), (False, True)])
def test_a_processor_without_the_arithmetic_is_named(has, warns, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": has})
    check_precision("bf16", "timm:mobilenetv4_conv_small.e2400_r224_in1k", CPU)
    assert ("avx512_bf16" in capsys.readouterr().err) == warns


def test_autocast_is_on_only_for_half_precision():
    with autocast("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")
    with autocast("bf16", CPU):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
