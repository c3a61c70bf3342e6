"""The first weights of a training: ImageNet's, an AVA checkpoint's, or a whole model's."""

import os
from collections.abc import Mapping

from models.imagenet import imagenet_state_dict
from models.uiqa import QualityModel
from utils.checkpoint import Checkpoint
from utils.weights_file import is_ours, load_strictly, read_weights_file, unwrap_state_dict

TRUNK_PREFIX = "feature_extraction."


def initial_weights(
    model: QualityModel,
    pretrained_path: str | None,
    init: str,
    backbone: str,
    view_sizes: Mapping[str, int],
    mos_scale: Mapping[str, float],
) -> str:
    """Give a model its first weights.

    Args:
        model: takes the weights.
        pretrained_path, init, backbone: the options of these names.
        view_sizes: side of each view, pixels; some trunks' ImageNet weights depend on it.
        mos_scale: `mean` and `sd` with which opinions are standardised.

    Returns:
        Where the weights come from, in words.

    Raises:
        CheckpointError: the file cannot be used.
        WeightsError: there are no ImageNet weights, or they cannot be downloaded.
    """
    if pretrained_path:
        return initialise(model, pretrained_path, mos_scale["mean"], mos_scale["sd"])
    if init == "scratch":
        return "random weights"
    state_dicts: dict[int, dict] = {}  # each size once for all branches
    for name, trunk in model.trunks().items():
        size = view_sizes[name]
        if size not in state_dicts:
            state_dicts[size] = imagenet_state_dict(backbone, size)
        trunk.load_state_dict(state_dicts[size])
    return "ImageNet weights in every trunk"


def initialise(model: QualityModel, path: str | os.PathLike, mos_mean: float = 0.0, mos_sd: float = 1.0) -> str:
    """Start a model from a file of weights; return in words what was taken.

    The file is an AVA checkpoint (`feature_extraction.*`: its trunk starts every branch; its head that of a
    single-trunk model), a bare trunk (torchvision's or timm's keys: likewise), or a whole model's state dict or
    checkpoint.

    Args:
        model: takes the weights.
        path: of the file.
        mos_mean, mos_sd: with which the training standardises opinions. A whole model scores on the data set's scale;
            its head is brought to that of the training.

    Raises:
        CheckpointError: the file cannot be read or fits none of these.
    """
    content = read_weights_file(path)
    checkpoint = Checkpoint.from_dict(content, path) if is_ours(content, path) else None
    if checkpoint:
        model.set_normalisation(**checkpoint.normalisation)
    state_dict = unwrap_state_dict(vars(checkpoint) if checkpoint else content)
    # A single trunk's checkpoint has the same keys as a model whose branches share a trunk, but a narrower head.
    same_head = getattr(state_dict.get("quality.0.weight"), "shape", None) == model.quality[0].weight.shape
    if model.state_dict().keys() <= state_dict.keys() and same_head:
        load_strictly(model, state_dict, path)
        if checkpoint:
            model.fold_opinion_scale(checkpoint.mos_scale["mean"], checkpoint.mos_scale["sd"])
        model.fold_opinion_scale(-mos_mean / mos_sd, 1 / mos_sd)
        return f"all weights from {path}"
    trunk = {key.removeprefix(TRUNK_PREFIX): value for key, value in state_dict.items() if key.startswith(TRUNK_PREFIX)}
    trunk = trunk or {key: value for key, value in state_dict.items() if not key.startswith(("head.", "quality."))}
    for branch in model.trunks().values():
        expected = branch.state_dict().keys()
        timm_keys = {f"net.{key}": value for key, value in trunk.items() if f"net.{key}" in expected}
        load_strictly(branch, timm_keys if timm_keys.keys() == expected else trunk, path)
    return f"the trunk of {path}, in {len(model.trunks())} branch(es)"
