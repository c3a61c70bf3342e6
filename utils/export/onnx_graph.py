"""Writing a loaded model for other programs: as an ONNX graph, or its weights as safetensors."""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from data.files import one_line, replace_file
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene
from data.views import ViewSpec, random_views
from models.backbones import SwinTrunk, Trunk, published_swin
from models.uiqa import QualityModel
from utils.errors import RunError
from utils.export.onnx_runtime import (
    MAP_PREFIX,
    ONNX_FORMAT,
    PHOTOGRAPH,
    OnnxNetwork,
    import_optional,
    open_session,
)
from utils.export.photograph_graph import photograph_graph
from utils.loaded_model import LoadedModel
from utils.weights_file import FORMAT, VERSION, encode

OPSET = 18
TOLERANCE = 1e-4  # between onnxruntime and PyTorch, relative to PyTorch's largest value, or to 1 if that is less
CHECKED_BATCHES = (1, 3)
VIEWS = "views"
PHOTOGRAPH_TOLERANCE = 2e-3  # for a graph that cuts the views itself: its resizing may differ by a grey level
CHECKED_SIZES = (  # height, width, pixels: small ones that are enlarged or padded, portraits, panoramas, odd sides
    *((20, 20), (33, 150), (223, 225), (480, 480), (601, 450), (768, 1024), (1080, 1920), (999, 3001)),
    *((2160, 3840), (3840, 2160), (400, 6000), (4000, 6000)),
)
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
        state = {name: value.to(half_dtype(name, value)) for name, value in state.items()}
    # Without the measures of the last validation, which may be NaN
    sources = loaded.sources and {
        name: replace(source, metrics=None).to_dict() for name, source in loaded.sources.items()
    }
    of_training = {"options": loaded.options, "sources": sources, "fingerprint": loaded.fingerprint}
    content = _description(loaded) | of_training
    with replace_file(path) as unfinished:
        unfinished.write_bytes(save(state, encode(content, FORMAT)))


def export_onnx(
    loaded: LoadedModel, path: str | os.PathLike, takes: str = PHOTOGRAPH, half: bool = False
) -> tuple[float, str]:
    """Write a model as an ONNX graph, provided that onnxruntime and PyTorch give the same results.

    Args:
        loaded: from `utils.checkpoint.load_model`.
        path: the file; it is written completely or not at all.
        takes: PHOTOGRAPH for a graph that cuts the views of a photograph itself, or VIEWS for the network alone.
        half: store the trunks' matrices and kernels as float16, see `export_safetensors`.

    Returns:
        The largest difference between onnxruntime's and PyTorch's results, relative to PyTorch's largest value, or to 1
        if that is less; and on what. For PHOTOGRAPH these are scores and quality of rendered photographs of
        CHECKED_SIZES and their maps, for VIEWS scores, bias and maps on random views.

    Raises:
        RunError: a package is missing, the model cannot be exported, or the results differ.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_optional(package)
    content = _graph_file(loaded, takes, half)
    if half:
        loaded = _as_stored(loaded)
    with replace_file(path) as unfinished:
        unfinished.write_bytes(content)
        session = open_session(unfinished)
        if takes == PHOTOGRAPH:
            difference, tolerance = largest_photograph_difference(loaded, session), PHOTOGRAPH_TOLERANCE
            checked = f"{len(CHECKED_SIZES)} photographs of 20 x 20 to 6000 x 4000"
        else:
            network, tolerance = OnnxNetwork(session), TOLERANCE
            difference = max(
                _largest_difference(loaded.model, network, noise(loaded.view_spec, batch)) for batch in CHECKED_BATCHES
            )
            checked = f"batches of {' and '.join(map(str, CHECKED_BATCHES))}"
        if not difference <= tolerance:  # also if it is NaN
            raise RunError(
                f"{path}: not written: onnxruntime's results differ from PyTorch's by {difference:.2g} of the largest, "
                f"more than {tolerance:g}; try other versions of onnxruntime or torch"
            )
    return difference, checked


def largest_photograph_difference(loaded: LoadedModel, session) -> float:
    """Return how far a session's results for whole photographs are from `LoadedModel.score`'s.

    Score, quality and maps are each compared relative to the largest expected value, or to 1 if that is less. A place
    of a map counts a tenth: a grey level that is rounded otherwise moves one place more than the whole.
    """
    differences = []
    for photograph in cut_photographs(CHECKED_SIZES):
        expected = loaded.score(photograph, maps=True)
        names = [output.name for output in session.get_outputs()]
        actual = dict(zip(names, session.run(names, {PHOTOGRAPH: photograph}), strict=True))
        pairs = [(actual["score"][0], expected.score, 1.0)]
        pairs += [(actual["quality"][0], expected.quality, 1.0)] if "quality" in actual else []
        pairs += [(actual[MAP_PREFIX + view][0], points, 0.1) for view, points in expected.maps.items()]
        differences += [weight * np.abs(a - e).max() / max(1.0, np.abs(e).max()) for a, e, weight in pairs]
    return float(np.max(differences))  # NaN if any is


def cut_photographs(sizes: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield photographs of some sizes (height, width), cut out of one rendered scene: (H, W, 3) uint8, contiguous."""
    scene = render_scene(derive_generator(Purpose.SCENE, 0, 0), *np.max(sizes, axis=0))
    for height, width in sizes:
        yield np.ascontiguousarray(scene[:height, :width])


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


def _graph_file(loaded: LoadedModel, takes: str, half: bool) -> bytes:
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
    if half:
        _store_half(file.graph)
    if takes == PHOTOGRAPH:
        file = photograph_graph(file, loaded.view_spec, loaded.calibration)
    onnx.helper.set_model_props(file, encode(_description(loaded) | {"input": takes}, ONNX_FORMAT))
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


def _store_half(graph) -> None:
    """Store the matrices and kernels of a graph, except the head's, as float16, with casts that loading it folds."""
    onnx, numpy_helper = import_optional("onnx"), import_optional("onnx.numpy_helper")
    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2 or weight.name.startswith("quality."):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for position, cast in enumerate(casts):
        graph.node.insert(position, cast)


def _as_stored(loaded: LoadedModel) -> LoadedModel:
    """Return a model with its weights rounded as `half` stores them."""
    model = deepcopy(loaded.model)
    state = model.state_dict()
    model.load_state_dict({name: value.to(half_dtype(name, value)).to(value.dtype) for name, value in state.items()})
    return replace(loaded, model=model)


def half_dtype(name: str, value: torch.Tensor) -> torch.dtype:
    """Return how `half` stores a tensor: matrices and kernels of the trunks as float16, everything else as it is."""
    is_large = value.dim() > 1 and value.is_floating_point() and not name.startswith("quality.")
    return torch.float16 if is_large else value.dtype


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
