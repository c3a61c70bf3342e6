"""Writing a loaded model for other programs: as an ONNX graph, or its weights as safetensors."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace

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
TOLERANCE = 1e-4  # between onnxruntime and PyTorch, relative to PyTorch's largest value, or to 1 if that is less
CHECKED_BATCHES = (1, 3)
LARGEST_ONNX = 2**31 - 2**24  # bytes of weights: a file holds 2 GiB, of which the graph needs some


def export_safetensors(loaded: LoadedModel, path: str | os.PathLike, half: bool = False) -> None:
    """Write the weights as safetensors, with everything else that scoring needs in the header.

    `utils.checkpoint.load_model` restores the same `LoadedModel`, whose scores are on the data set's scale; safetensors
    alone restores the state dict. Tensors that share memory are written once per name.

    Args:
        loaded: from `utils.checkpoint.load_model`.
        path: the file.
        half: write the trunks' matrices and kernels as float16. Biases, statistics, normalisations and the head stay
            float32: they are small, and statistics may be out of float16's range.
    """
    state = {name: value.detach().clone().contiguous() for name, value in loaded.model.state_dict().items()}
    if half:
        for name, value in state.items():
            if value.dim() > 1 and value.is_floating_point() and not name.startswith("quality."):
                state[name] = value.half()
    # Without the measures of the last validation, which may be NaN
    sources = loaded.sources and {
        name: replace(source, metrics=None).to_dict() for name, source in loaded.sources.items()
    }
    content = _description(loaded) | {"options": loaded.options, "sources": sources}
    with replace_file(path) as unfinished:
        unfinished.write_bytes(save(state, encode(content, FORMAT)))


def export_onnx(loaded: LoadedModel, path: str | os.PathLike) -> float:
    """Write the network as an ONNX graph, provided that onnxruntime and PyTorch give the same results.

    Args:
        loaded: from `utils.checkpoint.load_model`.
        path: the file; it is written completely or not at all.

    Returns:
        The largest difference between onnxruntime's and PyTorch's scores, bias and maps on random views, relative to
        PyTorch's largest value, or to 1 if that is less.

    Raises:
        RunError: a package is missing, the model cannot be exported, or the results differ.
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
        if not difference <= TOLERANCE:  # also if it is NaN
            raise RunError(
                f"{path}: not written: onnxruntime's results differ from PyTorch's by {difference:.2g} of the largest, "
                f"more than {TOLERANCE:g}; try other versions of onnxruntime or torch"
            )
    return difference


def noise(spec: ViewSpec, batch: int) -> dict[str, torch.Tensor]:
    """Return uint8 noise in the shapes of a batch of views, (batch, 3, S, S) each."""
    return random_views({name: (batch, *shape) for name, shape in spec.view_shapes().items()})


def _description(loaded: LoadedModel) -> dict:
    return {
        "version": VERSION,
        "model": loaded.architecture,
        "normalisation": loaded.model.normalisation,
        "view_spec": loaded.view_spec.to_dict(),
        "calibration": loaded.calibration and loaded.calibration.to_dict(),
        "branch_means": loaded.branch_means,
    }


class _PublishedTrunk(Trunk):
    """A Swin with torchvision's attention, for tracing: ours caches indices that fit a single batch size."""

    def __init__(self, trunk: SwinTrunk):
        super().__init__()
        self.swin = published_swin(trunk.name, stochastic_depth=0.0)
        self.swin.load_state_dict(trunk.state_dict())
        self.num_features = trunk.num_features

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        return self.swin.norm(self.swin.features(x))


class _Graph(QualityModel):
    """A model in the form that is traced: with trunks that can be traced, and outputs in a fixed order."""

    def __init__(self, model: QualityModel):
        trunks = model.trunks()
        super().__init__(list(trunks.values()))
        self.set_normalisation(**model.normalisation)
        self.view_names = model.view_names
        self.quality = model.quality
        # One entry per trunk: if it reads several views, the file has its weights once.
        traced = {trunk: _PublishedTrunk(trunk) if isinstance(trunk, SwinTrunk) else trunk for trunk in trunks.values()}
        self.branches = nn.ModuleDict({name: traced[trunk] for name, trunk in trunks.items()})

    def trunks(self) -> dict[str, nn.Module]:
        return dict(self.branches.items())

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.contributions(*views)
        return tuple(outputs[name] for name in ("score", "bias", *self.view_names))


def _graph_file(loaded: LoadedModel) -> bytes:
    """Trace a model; return the content of an ONNX file with its metadata.

    Raises:
        RunError: the model cannot be traced, or is too large for one file.
    """
    onnx = import_optional("onnx")
    name = " ".join(str(value) for value in loaded.architecture.values())
    if loaded.view_spec.is_ragged:
        raise RunError(f"{name}: reads as many patches as a photograph has, but a graph needs views of one shape")
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
    except Exception as error:  # torch.export and the exporter raise many kinds of exceptions
        cause = one_line(error.__cause__ or error)
        raise RunError(f"{name}: torch.onnx cannot export this model: {cause}") from error
    _remove_source_lines(file)
    onnx.helper.set_model_props(file, encode(_description(loaded), ONNX_FORMAT))
    return file.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's prints, logs and warnings; its exceptions say what failed."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _simplify(graph) -> None:
    """Fold constants, and give every node and value a unique name.

    The exporter's own optimizer also searches for patterns that runtimes fuse themselves when they load a file, which
    takes minutes for three Swins.
    """
    optimizer = import_optional("onnxscript.optimizer")
    optimizer.inline(graph)
    optimizer.fold_constants(graph, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(graph)
    import_optional("onnx_ir.passes.common").NameFixPass()(graph)


def _remove_source_lines(file) -> None:
    """Remove from a graph the paths and lines of this machine's source files that it was traced from."""
    for part in (file.graph, *file.graph.node, *file.graph.input, *file.graph.output, *file.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


@torch.inference_mode()
def _largest_difference(model: QualityModel, network: OnnxNetwork, views: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between two networks' outputs, relative to the largest value or to 1."""
    expected, actual = model.contributions(**views), network.contributions(**views)
    largest = {name: values.abs().max().clamp(min=1) for name, values in expected.items()}
    differences = [(actual[name] - expected[name]).abs().max() / largest[name] for name in actual]
    return torch.stack(differences).max().item()  # NaN if any is
