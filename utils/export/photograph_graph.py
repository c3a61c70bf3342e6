"""The way from a photograph to its views as ONNX operators, put in front of a network that reads views.

The operators follow `data/views.py` step by step, in integers wherever a position is computed. Resizing is ONNX's own
(antialiased, weights outside the image excluded), which is within one grey level of ours.
"""

from collections.abc import Sequence

import numpy as np

from data.fragments import FRACTION_UNIT
from data.views import VIEW_NAMES, ViewSpec
from utils.calibration import Calibration
from utils.errors import RunError
from utils.export.onnx_runtime import PHOTOGRAPH, import_optional

VIEW_PREFIX = "view_"


class GraphBuilder:
    """Collects ONNX nodes; every method returns the name of its result, int64 unless it is an image."""

    def __init__(self, prefix: str = "cut_"):
        self.helper = import_optional("onnx.helper")
        self.nodes: list = []
        self.prefix = prefix
        self._count = 0

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        """Add a node with one output."""
        self._count += 1
        name = f"{self.prefix}{operator.lower()}_{self._count}"
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: int | Sequence | np.ndarray, dtype: type = np.int64) -> str:
        """Add a constant."""
        numpy_helper = import_optional("onnx.numpy_helper")
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def operand(self, value: str | int) -> str:
        """Return the name of a value, which may be a number."""
        return value if isinstance(value, str) else self.constant(value)

    def calculate(self, operator: str, *values: str | int) -> str:
        """Add an operator of integers; Div rounds down, as all its operands here are positive."""
        return self.add(operator, *map(self.operand, values))

    def vector(self, *values: str | int) -> str:
        """Join integers into a vector."""
        one = self.constant([1])
        return self.add("Concat", *(self.add("Reshape", self.operand(value), one) for value in values), axis=0)

    def size(self, image: str, axis: int) -> str:
        """Return the length of an image along an axis."""
        return self.add("Gather", self.add("Shape", image), self.constant(axis))

    def sides(self, image: str) -> tuple[str, str]:
        """Return height and width of an image (H, W, 3)."""
        return self.size(image, 0), self.size(image, 1)

    def resize(self, image: str, height: str | int, width: str | int) -> str:
        """Resize an image (H, W, 3) uint8, antialiased: rows first, then columns, each rounded to uint8, as ours."""
        image = self.add("Unsqueeze", image, self.constant([0]))
        for sizes in ((1, height, self.size(image, 2), 3), (1, height, width, 3)):
            image = self.add(
                "Resize", image, "", "", self.vector(*sizes), mode="linear", antialias=1, exclude_outside=1
            )
        return self.add("Squeeze", image, self.constant([0]))

    def crop(self, image: str, top: str, left: str, size: int) -> str:
        """Cut a square out of an image (H, W, 3), black outside of it, as `data.views.crop`."""
        corner = self.vector(top, left)
        start = self.add("Max", corner, self.constant([0, 0]))
        end = self.add("Add", corner, self.constant([size, size]))  # Slice stops at the end of the image
        inside = self.add("Slice", image, start, end, self.constant([0, 1]))
        before = self.add("Sub", start, corner)
        shape = self.add("Slice", self.add("Shape", inside), self.constant([0]), self.constant([2]))
        after = self.add("Sub", self.add("Sub", self.constant([size, size]), before), shape)
        zero = self.constant([0])
        pads = self.add("Concat", before, zero, after, zero, axis=0)
        return self.add("Pad", inside, pads, self.constant(0, np.uint8))

    def central(self, side: str, size: int) -> str:
        """Return the start of a central crop along a side, as `data.saliency.salient_corner`: halves round to even."""
        room = self.calculate("Sub", side, size)
        half = self.calculate("Div", self.calculate("Max", room, 0), 2)
        odd = self.calculate("Mod", self.calculate("Max", room, 0), 2)
        rounded = self.calculate("Add", half, self.calculate("Mul", odd, self.calculate("Mod", half, 2)))
        missing = self.calculate("Div", self.calculate("Max", self.calculate("Sub", size, side), 0), 2)
        return self.calculate("Sub", rounded, missing)

    def view(self, image: str, name: str) -> None:
        """Name an image (S, S, 3) as a view, (1, 3, S, S)."""
        batch = self.add("Unsqueeze", self.add("Transpose", image, perm=[2, 0, 1]), self.constant([0]))
        self.nodes.append(self.helper.make_node("Identity", [batch], [name]))


def aesthetic_view(builder: GraphBuilder, image: str, spec: ViewSpec) -> str:
    """Resize the short side and cut the centre."""
    height, width = builder.sides(image)
    shortest = builder.calculate("Min", height, width)
    sides = [
        builder.calculate("Div", builder.calculate("Mul", side, spec.resize), shortest) for side in (height, width)
    ]
    resized = builder.resize(image, *sides)
    return builder.crop(resized, *(builder.central(side, spec.crop_size) for side in sides), spec.crop_size)


def salient_view(builder: GraphBuilder, image: str, spec: ViewSpec) -> str:
    """Cut the centre."""
    size = spec.salient_patch_dimension
    return builder.crop(image, *(builder.central(side, size) for side in builder.sides(image)), size)


def distortion_view(builder: GraphBuilder, image: str, spec: ViewSpec) -> str:
    """Enlarge a small image, and gather the mini-patches of evaluation."""
    n, patch = spec.n_fragment, spec.patch_size
    image = _enlarged(builder, image, n * patch)
    height, width = builder.sides(image)
    fractions = spec.evaluation_fractions()
    cell_of = np.arange(n * patch) // patch  # the cell of every row, or column, of the mosaic
    within = np.arange(n * patch) % patch
    positions = []
    for axis, side in enumerate((height, width)):
        cell = builder.calculate("Div", side, n)
        room = builder.calculate("Sub", cell, patch - 1)
        table = builder.constant(fractions[:, :, axis])
        offsets = builder.calculate("Div", builder.calculate("Mul", table, room), FRACTION_UNIT)  # (n, n)
        cells = builder.constant(np.arange(n)[:, None] if axis == 0 else np.arange(n)[None, :])
        corners = builder.calculate("Add", builder.calculate("Mul", cells, cell), offsets)
        # One corner for each pixel of the mosaic, (np, np), and the pixel's own position in its patch
        for across in (0, 1):
            corners = builder.add("Gather", corners, builder.constant(cell_of), axis=across)
        own = within[:, None] if axis == 0 else within[None, :]
        positions.append(builder.calculate("Add", corners, builder.constant(own)))
    index = builder.calculate("Add", builder.calculate("Mul", positions[0], width), positions[1])
    pixels = builder.add("Reshape", image, builder.constant([-1, 3]))
    return builder.add("Gather", pixels, index, axis=0)  # (np, np, 3)


def _enlarged(builder: GraphBuilder, image: str, side: int) -> str:
    """Enlarge an image until both sides reach `side`, as `data.fragments.enlarge_to_fit`."""
    height, width = builder.sides(image)
    shortest = builder.calculate("Min", height, width)
    branch = GraphBuilder(f"{builder.prefix}enlarge_")
    larger = [
        branch.calculate(
            "Div",
            branch.calculate("Add", branch.calculate("Mul", length, side), branch.calculate("Sub", shortest, 1)),
            shortest,
        )
        for length in (height, width)
    ]
    resized = branch.resize(image, *larger)
    same = GraphBuilder(f"{builder.prefix}keep_")
    kept = same.add("Identity", image)
    make_graph, output = builder.helper.make_graph, _image_info(builder)
    return builder.add(
        "If",
        builder.calculate("Less", shortest, side),
        then_branch=make_graph(branch.nodes, "enlarge", [], [output(resized)]),
        else_branch=make_graph(same.nodes, "keep", [], [output(kept)]),
    )


def _image_info(builder: GraphBuilder):
    element = import_optional("onnx").TensorProto.UINT8
    return lambda name: builder.helper.make_tensor_value_info(name, element, [None, None, 3])


VIEW_BUILDERS = {"aesthetic": aesthetic_view, "distortion": distortion_view, "salient": salient_view}


def photograph_graph(network, spec: ViewSpec, calibration: Calibration | None):
    """Put the cutting of views in front of a network, and the mapping to quality behind it.

    Args:
        network: an ONNX model from views to `score`, `bias` and maps.
        spec: how views are cut.
        calibration: mapping of scores to quality; without one the graph has no output `quality`.

    Returns:
        An ONNX model from PHOTOGRAPH, uint8 (H, W, 3), to `score` (1,), `quality` (1,), `bias`, for each view a map
        (1, h, w), and the views themselves, uint8 (1, 3, S, S).

    Raises:
        RunError: the views cannot be cut by ONNX operators.
    """
    if set(spec.views) - set(VIEW_NAMES) or ("salient" in spec.views and spec.saliency != "center"):
        raise RunError(
            "only the views aesthetic, distortion and salient with --saliency center can be cut inside an ONNX file; "
            "export the network alone with --input views"
        )
    onnx, compose = import_optional("onnx"), import_optional("onnx.compose")
    builder = GraphBuilder()
    for name in spec.views:
        builder.view(VIEW_BUILDERS[name](builder, PHOTOGRAPH, spec), name)
    make_info = builder.helper.make_tensor_value_info
    views = [make_info(name, onnx.TensorProto.UINT8, [1, 3, size, size]) for name, size in spec.view_sizes.items()]
    photograph = make_info(PHOTOGRAPH, onnx.TensorProto.UINT8, ["height", "width", 3])
    cutting = builder.helper.make_model(
        builder.helper.make_graph(builder.nodes, "views", [photograph], views),
        opset_imports=network.opset_import,
        ir_version=network.ir_version,
    )
    # The network's own names stay: those given here begin with "cut_"
    kept = ("nodes", "edges", "outputs", "initializers", "value_infos", "functions")
    prefixed = compose.add_prefix(network, "network_", **{f"rename_{part}": False for part in kept})
    joined = compose.merge_models(cutting, prefixed, io_map=[(name, f"network_{name}") for name in spec.views])
    if calibration and calibration.parameters:
        _append_quality(joined, calibration)
    for name, size in spec.view_sizes.items():
        joined.graph.node.append(builder.helper.make_node("Identity", [name], [VIEW_PREFIX + name]))
        joined.graph.output.append(make_info(VIEW_PREFIX + name, onnx.TensorProto.UINT8, [1, 3, size, size]))
    return joined


def _append_quality(model, calibration: Calibration) -> None:
    """Append quality = lower + (upper - lower) / (1 + exp(-(score - middle) / |width|))."""
    upper, lower, middle, width = calibration.parameters
    onnx, builder = import_optional("onnx"), GraphBuilder("map_to_")

    def number(value: float) -> str:
        return builder.constant(value, np.float32)

    centred = builder.add("Sub", "score", number(middle))
    rise = builder.add("Sigmoid", builder.add("Div", centred, number(abs(width))))
    mapped = builder.add("Add", builder.add("Mul", rise, number(upper - lower)), number(lower))
    builder.nodes.append(builder.helper.make_node("Identity", [mapped], ["quality"]))
    model.graph.node.extend(builder.nodes)
    output = builder.helper.make_tensor_value_info("quality", onnx.TensorProto.FLOAT, [1])
    model.graph.output.insert(1, output)
