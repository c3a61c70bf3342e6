"""Write a checkpoint as an ONNX graph or as safetensors, for programs without this project or without torch.

    python export.py ckpts/demo/best.pth --format onnx
    python predict.py --onnx ckpts/demo/best.onnx photo.jpg

An ONNX file needs nothing beside it. A program in any language that has an ONNX runtime scores with it so:

- Inputs: the model's views by name, `aesthetic`, `distortion` and `salient` or whichever it reads; uint8, (B, 3, S, S),
  RGB, not normalised. B, any number of photographs, is the same for all. The metadata entry `view_spec` (JSON) says how
  views are cut and how large they are; `data/views.py` is the reference. The places of the mini-patches are drawn by
  numpy's generator: with others a score differs by its sampling error, which `predict.py --fragment_draws` tells.
- Outputs, all float32: `score` (B,), on the data set's scale, higher is better; `bias`, a scalar; and for each view
  `map_<view>` (B, h, w), the points that every place adds: `score` is `bias` plus the mean of each map.
- Metadata: `format` is "uiqa-onnx"; `version`, `model`, `view_spec`, `calibration` and `branch_means` are JSON. With
  the four `parameters` (upper, lower, middle, width) of the calibration, `quality = lower + (upper - lower) / (1 +
  exp(-(score - middle) / |width|))` is on the MOS scale; without (null), scores stay as they are. `branch_means` is
  what each view adds to validation photographs' scores on average.

In Python, with nothing but numpy and onnxruntime:

    session = onnxruntime.InferenceSession("best.onnx")
    score, = session.run(["score"], {"aesthetic": aesthetic, "distortion": distortion, "salient": salient})

A safetensors file has the state dict, and in its header the same metadata ("uiqa-checkpoint"). It takes a checkpoint's
place everywhere here: `predict.py --checkpoint best.safetensors`.
"""

import argparse
import sys
from pathlib import Path

from utils.checkpoint import load_model
from utils.command_line import entry_point, make_parser, output_file, parse_options, usage_errors
from utils.errors import RunError
from utils.export.onnx_graph import CHECKED_BATCHES, export_onnx, export_safetensors
from utils.weights_file import WHERE_TO_GET_WEIGHTS

SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors"}


def export_parser() -> argparse.ArgumentParser:
    """Return the parser of export.py."""
    parser = make_parser(
        "Write a checkpoint as an ONNX graph, for predict.py --onnx and for programs without torch, or as safetensors. "
        "An ONNX graph takes the views as uint8, (B, 3, S, S), under their names (aesthetic, distortion, salient), and "
        "gives float32: score (B,), bias (a scalar), and map_<view> (B, h, w) for each view, with score = bias + the "
        "sum of the maps' means. Its metadata have view_spec, calibration and branch_means as JSON; the head of "
        "export.py says how to score with it in any language.",
        prog="export.py",
        epilog=WHERE_TO_GET_WEIGHTS,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="one of ours, or a released state dict such as UIQA.pth")
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        required=True,
        help="onnx: the network, checked against PyTorch (needs requirements-export.txt); safetensors: the weights",
    )
    parser.add_argument(
        "--out", type=output_file, metavar="FILE", help="write here; if not given, beside the checkpoint, by its name"
    )
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Export as the command line says; return the exit code."""
    parser = export_parser()
    options = parse_options(parser, args)
    suffix = SUFFIXES[options.format]
    out = Path(options.out or Path(options.checkpoint).with_suffix(suffix))
    if out.suffix != suffix:
        raise RunError(f"{out}: a file of this format is known by its suffix: call it {out.with_suffix(suffix)}")
    if out.resolve() == Path(options.checkpoint).resolve():
        raise RunError(f"{out}: is the checkpoint itself; give another file with --out")
    with usage_errors(parser):
        loaded = load_model(options.checkpoint)
    agreement = ""
    if options.format == "onnx":
        difference = export_onnx(loaded, out)
        batches = " and ".join(map(str, CHECKED_BATCHES))
        agreement = f", onnxruntime agrees with PyTorch to {difference:.0e} (batches of {batches})"
    else:
        export_safetensors(loaded, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB{agreement}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
