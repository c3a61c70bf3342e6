"""ImageNet weights: they fit the trunk, and a failed download has a remedy."""

import urllib.error

import pytest
from torchvision.models import swin_t

from models.backbones import build_trunk
from models.imagenet import WeightsError, imagenet_state_dict


@pytest.mark.parametrize("backbone", ["swin_t", "timm:test_resnet"])
def test_a_failed_download_names_the_option_for_a_local_file(backbone, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    with pytest.raises(WeightsError, match=r"--pretrained_path"):
        imagenet_state_dict(backbone, 64)


def test_a_trunk_without_imagenet_weights_is_refused():
    with pytest.raises(WeightsError, match="--init scratch"):
        imagenet_state_dict("swin_nano", 64)


def test_downloaded_weights_fit_the_trunk(monkeypatch):
    """torchvision's file also holds the classifier, which is left out."""
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: swin_t().state_dict())
    assert imagenet_state_dict("swin_t", 480).keys() == build_trunk("swin_t", 480).state_dict().keys()
