"""Write a checkpoint as an ONNX graph or as safetensors, for programs without this project or without torch.

    python export.py ckpts/demo/best.pth --format onnx
    python export.py ckpts/demo/best.pth --format onnx --input views
    python predict.py --onnx ckpts/demo/best.onnx photo.jpg

An ONNX file reads whole photographs (`--input photograph`): `photograph`, uint8, (H, W, 3), RGB, any size. The graph
cuts the views itself. Outputs, all float32: `score` and, if the checkpoint has a mapping, `quality`, (1,), and `bias`,
a scalar; for each view
`map_<view>`, (1, h, w), the points that each place adds (`score` equals `bias` plus the mean of each map); and
`view_<view>`, the views, uint8. docs/deployment.md shows it in three languages.

With `--input views` the file holds the network alone:

- Inputs: the views that the model reads, named `aesthetic`, `distortion` and `salient`: uint8, (B, 3, S, S), RGB, not
  normalised, with the same number of photographs B in each. The metadata entry `view_spec` (JSON) holds their sizes and
  how they are cut; `data/views.py` is the reference. Its `fractions` place the mini-patches with integer arithmetic:
  `fraction * (cell - patch + 1) // 65536` pixels from the corner of the cell, down and to the right.
- Outputs, all float32: `score` (B,), on the data set's scale, higher is better; `bias`, a scalar; and for each view
  `map_<view>` (B, h, w).

The metadata of both: `format` is "uiqa-onnx"; `version`, `model`, `normalisation`, `input`, `view_spec`, `calibration`
and `branch_means` are JSON. `calibration` has four `parameters` (upper, lower, middle, width), and `quality = lower +
(upper - lower) / (1 + exp(-(score - middle) / |width|))` is on the MOS scale; if `calibration` or its `parameters` are
null, the scores have no mapping. `branch_means` is what each view adds to the scores of the validation photographs on
average, or null.

A safetensors file holds the state dict and, in its header, the same metadata with the format "uiqa-checkpoint". It can
replace the checkpoint everywhere but in `train.py --resume`: `predict.py --checkpoint best.safetensors`.
"""

import argparse
import sys
from pathlib import Path

from utils.checkpoint import load_model
from utils.command_line import add_flag, entry_point, make_parser, output_file, parse_options, usage_errors
from utils.errors import RunError
from utils.export.onnx_graph import VIEWS, export_onnx, export_safetensors
from utils.export.onnx_runtime import PHOTOGRAPH
from utils.weights_file import WHERE_TO_GET_WEIGHTS


def export_parser() -> argparse.ArgumentParser:
    """Return the parser of export.py."""
    parser = make_parser(
        "Write a checkpoint as an ONNX graph, for programs without torch, or as safetensors. An ONNX graph takes a "
        "photograph, uint8 (H, W, 3), and returns float32: score and quality (1,), bias (a scalar), and map_<view> "
        "(1, h, w) for each view, with score = bias + the sum of the maps' means. With --input views it takes the "
        "views as uint8, (B, 3, S, S), under their names (aesthetic, distortion, salient), and returns score (B,), "
        "bias and map_<view> (B, h, w). Its metadata hold view_spec, calibration and branch_means as JSON; the "
        "docstring of export.py explains how to score with it in any language.",
        prog="export.py",
        epilog=WHERE_TO_GET_WEIGHTS,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="one of ours, or a released state dict such as UIQA.pth")
    parser.add_argument(
        "--format",
        choices=("onnx", "safetensors"),
        required=True,
        help="onnx: the network, compared with PyTorch (needs requirements-export.txt); safetensors: the weights",
    )
    parser.add_argument(
        "--input",
        choices=(PHOTOGRAPH, VIEWS),
        default=PHOTOGRAPH,
        help="onnx: what the graph reads. photograph: a decoded photograph of any size; the graph cuts the views and "
        "maps the score to quality. views: the views that Python has cut, for predict.py --onnx",
    )
    add_flag(parser, "--half", "store the trunks' weights as float16, half the size, and compute in float32")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE", help="the file to write (default: beside the checkpoint)"
    )
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run export.py with these arguments; return the exit code."""
    parser = export_parser()
    options = parse_options(parser, args)
    suffix = f".{options.format}"
    if not Path(options.checkpoint).name:
        raise RunError(f"{options.checkpoint!r} is not the name of a checkpoint")
    out = Path(options.out or Path(options.checkpoint).with_suffix(suffix))
    if out.suffix != suffix:
        raise RunError(f"{out}: files of this format need the suffix {suffix}: write {out.with_suffix(suffix)}")
    if out.resolve() == Path(options.checkpoint).resolve():
        raise RunError(f"{out} is the checkpoint itself; give another file with --out")
    with usage_errors(parser):
        loaded = load_model(options.checkpoint)
    agreement = ""
    if options.format == "onnx":
        difference, checked = export_onnx(loaded, out, options.input, options.half)
        agreement = f", onnxruntime agrees with PyTorch to {difference:.0e} ({checked})"
    else:
        export_safetensors(loaded, out, options.half)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB{agreement}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
