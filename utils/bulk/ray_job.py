"""`predict.py --ray`: the same scorer spread over a machine or a cluster by Ray Data.

The driver lists the images, tasks decode them and cut their views, actors hold the model and score, and the driver
alone writes. Ray runs the tasks of a worker that died again, elsewhere; the driver takes one row an image.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from types import ModuleType

import numpy as np
import pandas as pd

from utils.bulk.ray_cluster import cluster, import_ray, last_line
from utils.bulk.ray_workers import Scorer, cut_photographs
from utils.bulk.score_folder import ScoreFolder, file_sha256, is_list, missing, read_list
from utils.checkpoint import load_model
from utils.command_line import usage_errors, whole_number
from utils.environment import environment
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.loaded_model import LoadedModel
from utils.options import check_fragment_draws
from utils.progress import Tally, progress_bar

# Without GPUs every core has an actor, and beside it the decoding that keeps the actor busy: a fortieth of the work.
CPU_ACTOR, CPU_CUTTING = 0.9, 0.1
SHOWN_FAILURES = 10


def add_ray_options(parser) -> None:
    """Add what decides how images are scored beyond one machine."""
    group = parser.add_argument_group("beyond one machine (docs/deployment.md)")
    group.add_argument(
        "--ray",
        action="store_true",
        help="score with Ray Data, here or on a cluster, into --out; an IMAGE may also be a CSV or Parquet list of "
        "images (column image or path). Decoding is spread as well: --num_workers does not count",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        help="with --ray: DIR/scores and DIR/failures receive Parquet parts; the same command again does only what is "
        "missing there",
    )
    group.add_argument(
        "--ray_actors",
        type=whole_number(1),
        metavar="N",
        help="with --ray: processes that hold the model (default: one for each GPU, without GPUs for each core)",
    )
    group.add_argument(
        "--ray_address",
        metavar="HOST:PORT",
        help="with --ray: the cluster, or local (default: RAY_ADDRESS, or local, where Ray is started for this job)",
    )


def wants_ray(parser: argparse.ArgumentParser, options: argparse.Namespace) -> bool:
    """Return whether the images go to Ray; options that do not go together are the parser's error."""
    if not options.ray:
        alone = [name for name in ("out", "ray_actors", "ray_address") if getattr(options, name) is not None]
        if alone:
            parser.error(f"--{alone[0]} belongs to --ray; without it, scores go into --csv or --json")
        return False
    others = [f"--{name}" for name in ("csv", "json", "views", "map") if getattr(options, name) is not None]
    if others:
        parser.error(f"--ray writes Parquet into --out and nothing else; leave out {', '.join(others)}")
    if options.onnx is not None:
        parser.error("--ray scores with a checkpoint; leave out --onnx")
    if options.out is None:
        parser.error("--ray needs a folder for its results: give --out DIR")
    if options.device not in ("auto", "cpu", "cuda"):
        parser.error(f"--device {options.device}: Ray hands out the GPUs; with --ray give auto, cpu or cuda")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parser.error("--ray starts its own processes; give it to python, not to torchrun")
    return True


def score_with_ray(
    parser: argparse.ArgumentParser, options: argparse.Namespace, find_images: Callable[[list[str]], Iterator[str]]
) -> int:
    """Score what is missing in `--out`; return the exit code.

    Args:
        parser, options: of predict.py.
        find_images: what finds the files that arguments mean.

    Raises:
        RunError: Ray is not installed or fails, the folder belongs to other scores, or an argument means no image.
    """
    ray = import_ray()
    names = (name for word in options.images for name in (read_list(word) if is_list(word) else find_images([word])))
    images = list(dict.fromkeys(map(os.path.abspath, names)))  # workers may be in another folder
    with usage_errors(parser):
        loaded = load_model(options.checkpoint, options.calibration).with_max_pixels(options.max_pixels)
        check_fragment_draws(options.fragment_draws, loaded.view_spec)
        if "patches" in loaded.view_spec.views:
            raise ValueError("--ray spreads the views of UIQA and SwinT; this model reads patches")
    settings = {
        "checkpoint": f"with the SHA-256 {file_sha256(options.checkpoint)}",
        "calibration": loaded.calibration.to_dict() if loaded.calibration else None,
        "fragment_draws": options.fragment_draws,
        "max_pixels": loaded.view_spec.max_pixels,
    }
    tally = Tally()
    with ScoreFolder(options.out, settings, environment()) as folder:
        todo = missing(images, folder)
        if todo:
            with cluster(ray, options.ray_address, options.ray_actors):
                _score(ray, todo, loaded, options, folder, tally)
        folder.flush()
        failed = len(folder.images("failures").intersection(images))
    print(
        f"{len(images)} images: {len(todo)} done now ({tally.images_per_s:.2f} images/s), "
        f"{len(images) - len(todo)} before; {failed} failed. Parquet in {folder.path / 'scores'}"
    )
    return EXIT_FAILED_IMAGES if failed else 0


def _score(
    ray: ModuleType,
    images: Sequence[str],
    loaded: LoadedModel,
    options: argparse.Namespace,
    folder: ScoreFolder,
    tally: Tally,
) -> None:
    """Score images into a folder, one row each, whatever Ray runs twice."""
    waiting = np.ones(len(images), bool)
    shown = 0
    try:
        with closing(_results(ray, images, loaded, options)) as results, progress_bar(len(images), "scoring") as bar:
            for rows in results:
                rows = rows[waiting[rows["index"]]]
                waiting[rows["index"]] = False
                rows.insert(0, "image", [images[index] for index in rows.pop("index")])
                bad = rows["error"] != ""
                folder.add("scores", rows[~bad].drop(columns="error"))
                folder.add("failures", rows.loc[bad, ["image", "error"]])
                for message in rows.loc[bad, "error"]:
                    shown += 1
                    if shown <= SHOWN_FAILURES:
                        bar.write(f"failed: {message}", file=sys.stderr)
                tally.add(len(rows), 0)
                bar.update(len(rows))
    except ray.exceptions.RayError as error:
        raise RunError(
            f"Ray gave up: {last_line(error)}. What is done stays in {folder.path}; the same command goes on"
        ) from error
    tally.stop()
    if waiting.any():
        raise RunError(f"{waiting.sum()} images came back without a result; the same command does them again")


def _results(
    ray: ModuleType, images: Sequence[str], loaded: LoadedModel, options: argparse.Namespace
) -> Iterator[pd.DataFrame]:
    """Yield rows as they are done, in any order: index, error ("" if there is none), and the columns of a score."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if options.device != "cpu" else 0
    if options.device == "cuda" and not gpus:
        raise RunError("--device cuda: the machines of this Ray have no GPU; give --device cpu or auto")
    actors = options.ray_actors or gpus or max(1, int(resources.get("CPU", 1)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3  # a machine may go away while its actor is still loading
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off

    # A block is what a task cuts and an actor scores at once. `from_pandas` would start a task for each.
    rows = [{"index": index, "image": image} for index, image in enumerate(images)]
    blocks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // options.batch_size))
    views = blocks.map_batches(
        cut_photographs,
        batch_format="numpy",
        fn_kwargs={"spec": loaded.view_spec, "draws": options.fragment_draws},
        num_cpus=1 if gpus else CPU_CUTTING,
    )
    scores = views.map_batches(
        Scorer,
        batch_size=options.batch_size if gpus else None,  # Ray wants a number where there are GPUs
        batch_format="numpy",
        zero_copy_batch=False,  # torch wants memory that it may write to
        compute=ray.data.ActorPoolStrategy(size=actors),
        # In a list, or Ray would send the model's weights with every call that makes an actor.
        fn_constructor_args=([ray.put(loaded)], "cuda" if gpus else "cpu", options.fragment_draws, options.compile),
        num_cpus=1 if gpus else CPU_ACTOR,
        **({"num_gpus": 1} if gpus else {}),
    )
    for rows in scores.iter_batches(batch_size=None, batch_format="numpy"):
        yield pd.DataFrame(rows)
