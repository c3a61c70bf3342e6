"""A loaded model as a file for other programs: an ONNX graph, or weights as safetensors."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from safetensors.torch import save
from torch import nn

from data.files import one_line, replace_file
from data.views import ViewSpec, random_views
from models.backbones import SwinTrunk, Trunk, published_swin
from models.uiqa import QualityModel
from utils.errors import RunError
from utils.export.onnx_runtime import MAP_PREFIX, ONNX_FORMAT, OnnxNetwork, import_optional, open_session
from utils.loaded_model import LoadedModel
from utils.weights_file import FORMAT, VERSION, encode

OPSET = 18
TOLERANCE = 1e-4  # of what onnxruntime finds, in units of the largest number that PyTorch finds, or of 1
CHECKED_BATCHES = (1, 3)
LARGEST_ONNX = 2**31 - 2**24  # bytes of weights: a file holds 2 GiB, and the graph needs room, too


def export_safetensors(loaded: LoadedModel, path: str | os.PathLike) -> None:
    """Write the weights, scores on the data set's scale, with what scoring needs besides in the header.

    `utils.checkpoint.load_model` makes the same `LoadedModel` of it, and safetensors alone the state dict. Tensors that
    share memory are written once for each name.
    """
    state = {name: value.detach().clone().contiguous() for name, value in loaded.model.state_dict().items()}
    content = _description(loaded) | {"options": loaded.options}
    with replace_file(path) as unfinished:
        unfinished.write_bytes(save(state, encode(content, FORMAT)))


def export_onnx(loaded: LoadedModel, path: str | os.PathLike) -> float:
    """Write the network as an ONNX graph, unless onnxruntime scores otherwise with it than PyTorch.

    Args:
        loaded: of `utils.checkpoint.load_model`.
        path: of the file; it is written whole or not at all.

    Returns:
        The largest difference between onnxruntime's and PyTorch's scores, bias and maps on random views.

    Raises:
        RunError: a package is missing; the model cannot be exported; or the two differ.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_optional(package)
    content = _graph_file(loaded)
    with replace_file(path) as unfinished:
        unfinished.write_bytes(content)
        network = OnnxNetwork(open_session(unfinished))
        difference = max(
            _largest_difference(loaded.model, network, noise(loaded.view_spec, batch)) for batch in CHECKED_BATCHES
        )
        if not difference <= TOLERANCE:  # NaN is no agreement
            raise RunError(
                f"{path}: not written: onnxruntime's results differ from PyTorch's by {difference:.2g}, more than "
                f"{TOLERANCE:g} of the largest; other versions of onnxruntime or torch may agree"
            )
    return difference


def noise(spec: ViewSpec, batch: int) -> dict[str, torch.Tensor]:
    """Return uint8 noise in the shapes in which views are cut, (batch, 3, S, S) each."""
    return random_views({name: (batch, *shape) for name, shape in spec.view_shapes().items()})


def _description(loaded: LoadedModel) -> dict:
    return {
        "version": VERSION,
        "model": loaded.architecture,
        "view_spec": loaded.view_spec.to_dict(),
        "calibration": loaded.calibration and loaded.calibration.to_dict(),
        "branch_means": loaded.branch_means,
    }


class _PublishedTrunk(Trunk):
    """A Swin with torchvision's attention, for tracing: ours looks indices up that fit one size of batch."""

    def __init__(self, trunk: SwinTrunk):
        super().__init__()
        self.swin = published_swin(trunk.name, stochastic_depth=0.0)
        self.swin.load_state_dict(trunk.state_dict())
        self.num_features = trunk.num_features

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        return self.swin.norm(self.swin.features(x))


class _Graph(QualityModel):
    """A model as it is traced: its head on trunks that can be, results in a fixed order."""

    def __init__(self, model: QualityModel):
        trunks = model.trunks()
        super().__init__(sum(trunk.num_features for trunk in trunks.values()))
        self.view_names = model.view_names
        self.quality = model.quality
        # One trunk may read several views; its weights are then in the file once.
        plain = {trunk: _PublishedTrunk(trunk) if isinstance(trunk, SwinTrunk) else trunk for trunk in trunks.values()}
        self.branches = nn.ModuleDict({name: plain[trunk] for name, trunk in trunks.items()})

    def trunks(self) -> dict[str, nn.Module]:
        return dict(self.branches.items())

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.contributions(*views)
        return tuple(found[name] for name in ("score", "bias", *self.view_names))


def _graph_file(loaded: LoadedModel) -> bytes:
    """Trace a model; return the ONNX file with its metadata.

    Raises:
        RunError: it cannot be traced, or is too large for one file.
    """
    onnx = import_optional("onnx")
    name = " ".join(str(value) for value in loaded.architecture.values())
    if loaded.view_spec.is_ragged:
        raise RunError(f"{name}: reads as many patches as a photograph has, and a graph has views of one shape")
    graph = _Graph(loaded.model).eval()
    size = sum(value.numel() * value.element_size() for value in {*graph.parameters(), *graph.buffers()})
    if size > LARGEST_ONNX:
        raise RunError(f"{name}: its {size / 2**30:.1f} GiB of weights do not fit into one ONNX file, which holds 2")
    views = tuple(noise(loaded.view_spec, 2).values())
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                views,
                input_names=list(graph.view_names),
                output_names=["score", "bias", *(MAP_PREFIX + view for view in graph.view_names)],
                dynamic_shapes=(tuple({0: batch} for _ in views),),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
            _simplify(program.model)
            file = program.model_proto
    except Exception as error:  # torch.export and the exporter have exceptions of many kinds
        cause = one_line(error.__cause__ or error)
        raise RunError(f"{name}: torch.onnx cannot export this model: {cause}") from error
    _forget_sources(file)
    onnx.helper.set_model_props(file, encode(_description(loaded), ONNX_FORMAT))
    return file.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints, logs and warns of from the terminal; its exceptions say what failed."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


def _simplify(graph) -> None:
    """Compute what depends on no input, and give everything a name of its own.

    The exporter's own optimizer also searches for patterns that runtimes fuse themselves when they load a file, which
    takes minutes for three Swins.
    """
    optimizer = import_optional("onnxscript.optimizer")
    optimizer.inline(graph)
    optimizer.fold_constants(graph, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(graph)
    import_optional("onnx_ir.passes.common").NameFixPass()(graph)


def _forget_sources(file) -> None:
    """Take from a graph the lines of this machine's source files that every node was traced from."""
    for part in (file.graph, *file.graph.node, *file.graph.input, *file.graph.output, *file.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


@torch.inference_mode()
def _largest_difference(model: QualityModel, network: OnnxNetwork, views: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two networks' results, in units of the largest result or of 1."""
    expected, found = model.contributions(**views), network.contributions(**views)
    differences = [
        (found[name] - values).abs().max() / values.abs().max().clamp(min=1)
        for name, values in expected.items()
        if name in found
    ]
    return torch.stack(differences).max().item()
