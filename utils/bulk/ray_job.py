"""`predict.py --ray`: scoring spread over a machine or a cluster by Ray Data.

Tasks decode the images and cut their views, actors hold the model and score, and only the driver, this process, writes.
Ray runs the tasks of a lost worker again on another one; the driver keeps one row per image.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pandas as pd

from data.files import utf8
from utils.bulk.images import FoundImages
from utils.bulk.manifest import scoring_settings
from utils.bulk.ray_cluster import cluster, import_ray, last_line
from utils.bulk.ray_workers import Scorer, cut_photographs
from utils.bulk.score_folder import ScoreFolder
from utils.checkpoint import load_model
from utils.command_line import integer, usage_errors
from utils.distributed import launched_processes
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.loaded_model import LoadedModel
from utils.options import check_fragment_draws
from utils.precision import check_precision
from utils.progress import Failures, Tally, progress_bar

# Without GPUs each core has an actor and the tasks that decode for it, which are a fortieth of the work.
CPUS_PER_ACTOR, CPUS_PER_TASK = 0.9, 0.1


def add_ray_options(parser) -> None:
    """Add the options of scoring with Ray."""
    group = parser.add_argument_group("scoring on many machines (docs/deployment.md)")
    group.add_argument(
        "--ray",
        action="store_true",
        help="score with Ray Data, on this machine or a cluster, into --out; an IMAGE may also be a CSV or Parquet "
        "list of images (column image or path). Decoding is distributed too: --num_workers has no effect",
    )
    group.add_argument(
        "--out", metavar="DIR", help="folder for scores/ and failures/ in Parquet; the same command resumes the job"
    )
    group.add_argument(
        "--ray_actors", type=integer(1), metavar="N", help="model processes (default: one per GPU, else per core)"
    )
    group.add_argument(
        "--ray_address", metavar="HOST:PORT", help="the cluster, or local (default: RAY_ADDRESS, else local)"
    )


def check_ray_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Report options that contradict each other, with or without --ray, as the parser's error."""
    if not options.ray:
        unused = [name for name in ("out", "ray_actors", "ray_address") if getattr(options, name) is not None]
        if unused:
            parser.error(f"--{unused[0]} belongs to --ray; without it, use --csv or --json")
        return
    others = [f"--{name}" for name in ("csv", "json", "views", "map", "report") if getattr(options, name) is not None]
    if others:
        parser.error(f"--ray only writes Parquet into --out; leave out {', '.join(others)}")
    if options.onnx is not None:
        parser.error("--ray scores with a checkpoint; leave out --onnx")
    if options.out is None:
        parser.error("--ray needs a folder for its results: give --out DIR")
    if options.device not in ("auto", "cpu", "cuda"):
        parser.error(f"--device {options.device}: Ray assigns the GPUs; with --ray give auto, cpu or cuda")
    if launched_processes() > 1:
        parser.error("--ray starts its own processes; run it with python, not torchrun")


def score_with_ray(parser: argparse.ArgumentParser, options: argparse.Namespace, found: FoundImages) -> int:
    """Score the images that `--out` does not have yet; return the exit code.

    Args:
        parser, options: of predict.py.
        found: the images, and the arguments that have none, which are failures.

    Raises:
        RunError: Ray is not installed or fails, or the folder has scores of other settings.
    """
    ray = import_ray()
    problems = {utf8(os.path.abspath(name)): utf8(problem) for name, problem in found.problems.items()}
    # Workers may have another working directory.
    paths = {utf8(path): path for path in map(os.path.abspath, found.images)}
    images = [image for image in paths if image not in problems]
    with usage_errors(parser):
        loaded = load_model(options.checkpoint, options.calibration).with_max_pixels(options.max_pixels)
        check_fragment_draws(options.fragment_draws, loaded.view_spec)
        check_precision(options.precision, loaded.architecture["backbone"])
        if "patches" in loaded.view_spec.views:
            raise ValueError("--ray distributes the views of UIQA and SwinT; this model reads patches")
    tally, failures = Tally(), Failures()
    with ScoreFolder(options.out, scoring_settings(options, loaded)) as folder:
        remaining = folder.remaining(images)
        if remaining:
            with cluster(ray, options.ray_address, options.ray_actors):
                computing = options.device, options.ray_actors, options.batch_size, options.compile, options.precision
                files = [paths[image] for image in remaining]
                results = _score(files, loaded, options.fragment_draws, *computing)
                _write_results(results, remaining, folder, tally, failures)
        unusable = folder.remaining(list(problems))
        folder.add("failures", pd.DataFrame({"image": unusable, "error": [problems[name] for name in unusable]}))
        folder.flush()
        failed = len(folder.images("failures").intersection(paths))
    for problem in problems.values():
        failures.add(problem)
    failures.print_rest(f"all are in {folder.path / 'failures'}")
    if found.skipped:
        print(found.skipped_text(), file=sys.stderr)
    print(
        f"{len(images)} images: {len(remaining)} done now ({tally.images_per_s:.2f} images/s), "
        f"{len(images) - len(remaining)} before; {failed} failed. Parquet in {folder.path / 'scores'}"
    )
    return EXIT_FAILED_IMAGES if failed else 0


def _write_results(
    results: Iterator[pd.DataFrame], images: Sequence[str], folder: ScoreFolder, tally: Tally, failures: Failures
) -> None:
    """Write the rows of `_score` into a folder, one per image even if Ray has run a task twice."""
    ray = import_ray()
    pending = np.ones(len(images), bool)
    try:
        with closing(results), progress_bar(len(images), "scoring") as bar:
            for rows in results:
                rows = rows[pending[rows["index"]]]
                pending[rows["index"]] = False
                rows.insert(0, "image", [images[index] for index in rows.pop("index")])
                is_failure = rows["error"] != ""
                folder.add("scores", rows[~is_failure].drop(columns="error"))
                folder.add("failures", rows.loc[is_failure, ["image", "error"]])
                for message in rows.loc[is_failure, "error"]:
                    failures.add(message)
                tally.add(len(rows), 0)
                bar.update(len(rows))
    except ray.exceptions.RayError as error:
        raise RunError(
            f"Ray failed: {last_line(error)}. The results so far are in {folder.path}; the same command resumes"
        ) from error
    tally.stop()
    if pending.any():
        raise RunError(f"{pending.sum()} images have no result; the same command scores them again")


def _score(
    images: Sequence[str],
    loaded: LoadedModel,
    draws: int,
    device: str,
    actors: int | None,
    batch_size: int,
    compile: bool,
    precision: str,
) -> Iterator[pd.DataFrame]:
    """Yield rows as they finish, in any order: index, error ("" if there is none), and the columns of a score."""
    ray = import_ray()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise RunError("--device cuda: the machines of this Ray have no GPU; give --device cpu or auto")
    actors = actors or gpus or max(1, int(resources.get("CPU", 1)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3  # a machine may disappear while its actor is loading
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off

    # A block is what a task cuts and an actor scores at once. `from_pandas` would start a task for each.
    rows = [{"index": index, "image": os.fsencode(image)} for index, image in enumerate(images)]
    blocks = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch_size))
    views = blocks.map_batches(
        cut_photographs,
        batch_format="numpy",
        fn_kwargs={"spec": loaded.view_spec, "draws": draws},
        num_cpus=1 if gpus else CPUS_PER_TASK,
    )
    scores = views.map_batches(
        Scorer,
        batch_size=batch_size if gpus else None,  # Ray requires a number if there are GPUs
        batch_format="numpy",
        zero_copy_batch=False,  # torch needs writable memory
        compute=ray.data.ActorPoolStrategy(size=actors),
        # In a list, or Ray would send the weights with every call that creates an actor.
        fn_constructor_args=([ray.put(loaded)], "cuda" if gpus else "cpu", draws, compile, precision),
        num_cpus=1 if gpus else CPUS_PER_ACTOR,
        **({"num_gpus": 1} if gpus else {}),
    )
    for rows in scores.iter_batches(batch_size=None, batch_format="numpy"):
        yield pd.DataFrame(rows)
