"""Measure controls on a label table: a ridge regression on ImageNet features, and the group alone.

    python docs/controls.py opinions.csv --source BIQ2021

The ridge regression reads frozen features of EfficientNet-Lite0 (means and standard deviations over each of its five
stages, on the whole photograph at its own size) and chooses its penalty on 1,000 training images. The other control
gives every photograph the mean opinion of the training images of its group. Where pictures look alike, their opinions
should agree: how far they do is the last measure. Features are kept beside the table, so that the command can be
interrupted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.decode import decode_rgb  # noqa: E402
from data.files import replace_file, write_json  # noqa: E402
from data.label_files import TableError  # noqa: E402
from data.tables import load_table  # noqa: E402
from models.imagenet import packaged_state_dict  # noqa: E402
from utils.calibration import fit_calibration  # noqa: E402
from utils.command_line import entry_point, result_file  # noqa: E402
from utils.progress import progress_bar  # noqa: E402
from utils.reporting.measures import group_report, measure, measures_table  # noqa: E402

BACKBONE = "tf_efficientnet_lite0"
PENALTIES = 10.0 ** np.arange(-1, 7, 0.5)
CHOICE = 1000  # training images on which the penalty is chosen
SAVE_EVERY = 500
PAIRS = 100  # of similar images, whose opinions are compared


@torch.no_grad()
def features(paths: list[str], file: Path) -> np.ndarray:
    """Return the features of photographs, (n, 2 * channels of all stages) float32; those in the file are kept."""
    model = timm.create_model(BACKBONE, features_only=True).eval()
    state = packaged_state_dict(BACKBONE)
    model.load_state_dict({name: state[name] for name in model.state_dict()}, strict=True)
    mean, std = (
        torch.tensor(timm.create_model(BACKBONE).pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")
    )
    done = dict(np.load(file)) if file.exists() else {}
    with progress_bar(len(paths), "features") as bar:
        for number, path in enumerate(paths, start=1):
            if path not in done:
                image = torch.from_numpy(decode_rgb(path)).permute(2, 0, 1)
                stages = model(
                    (image.div(255).sub_(mean).div_(std))[None].contiguous(memory_format=torch.channels_last)
                )
                values = [statistic for stage in stages for statistic in (stage.mean((0, 2, 3)), stage.std((0, 2, 3)))]
                done[path] = torch.cat(values).numpy()
            if number % SAVE_EVERY == 0 or number == len(paths):
                with replace_file(file) as unfinished, unfinished.open("wb") as written:
                    np.savez(written, **done)
            bar.update()
    return np.stack([done[path] for path in paths])


def ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the predictions of a ridge regression on standardised features.

    Args:
        x, y: features and opinions of the training images, (m, C) and (m,).
        test: features of the images to predict, (n, C).
        seed: of the choice of the images on which the penalty is chosen.

    Returns:
        (n,), on the scale of y.
    """
    mean, sd = x.mean(0), x.std(0) + 1e-6
    x, test = (x - mean) / sd, (test - mean) / sd
    order = np.random.RandomState(seed).permutation(len(x))
    choice = min(CHOICE, len(order) // 5)
    fitted, chosen = order[choice:], order[:choice]

    def predict(rows: np.ndarray, penalty: float, onto: np.ndarray) -> np.ndarray:
        centred = y[rows] - y[rows].mean()
        weights = np.linalg.solve(x[rows].T @ x[rows] + penalty * np.eye(x.shape[1]), x[rows].T @ centred)
        return onto @ weights + y[rows].mean()

    errors = [np.square(predict(fitted, penalty, x[chosen]) - y[chosen]).mean() for penalty in PENALTIES]
    return predict(order, PENALTIES[int(np.argmin(errors))], test)


def agreement_of_similar_images(x: np.ndarray, mos: np.ndarray, pairs: int = PAIRS) -> tuple[float, float]:
    """Return how far opinions of images that look alike agree, which limits every score.

    Args:
        x: features, (n, C).
        mos: opinions, (n,).
        pairs: how many of the most similar pairs of images are looked at.

    Returns:
        The largest distance in a pair, in standard deviations of a feature (root of the mean square), and the
        correlation between the opinions of its two images.
    """
    z = ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype(np.float32)
    squares = np.square(z).sum(1)
    distances = squares[:, None] + squares[None] - 2 * z @ z.T
    first, second = np.triu_indices(len(z), 1)
    distances = distances[first, second]
    nearest = np.argpartition(distances, min(pairs, len(distances)) - 1)[:pairs]
    one, other = mos[first[nearest]], mos[second[nearest]]
    correlation = np.corrcoef(np.concatenate([one, other]), np.concatenate([other, one]))[0, 1]  # in both orders
    return float(np.sqrt(max(0, distances[nearest].max()) / x.shape[1])), float(correlation)


@entry_point
def main(args: list[str] | None = None) -> int:
    """Measure both controls on the test split of one source."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", type=Path, help="label table of `prepare.py labels`")
    parser.add_argument("--source", default="BIQ2021", help="data set of the table")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the measures here as well")
    options = parser.parse_args(args)
    if not options.table.is_file():
        raise TableError(
            f"{options.table}: no such file; write it with: python prepare.py labels BIQ2021=FOLDER --out FILE"
        )
    frame = load_table("csv", options.table.parent, metadata=options.table).frame
    if "source" not in frame or options.source not in set(frame["source"]):
        raise TableError(f"{options.table}: no images of the source {options.source}")
    frame = frame[frame["source"] == options.source]
    training, test = frame[frame["split"] != "test"], frame[frame["split"] == "test"]
    means = training.groupby("group")["mos"].mean() if "group" in frame else pd.Series(dtype=float)
    has_groups = len(means) > 1 and test["group"].isin(means.index).all()  # contents are in one split alone
    x = features(frame["path"].tolist(), options.table.with_name(f"features_{options.source}.npz"))
    x = dict(zip(frame["path"], x, strict=True))
    inputs = [np.stack([x[path] for path in rows["path"]]).astype(float) for rows in (training, test)]
    candidates = {
        "ridge on ImageNet features": ridge(inputs[0], training["mos"].to_numpy(), inputs[1]),
    }
    if has_groups:
        candidates["group alone"] = test["group"].map(means).to_numpy()
    mos, report = test["mos"].to_numpy(), {}
    for name, scores in candidates.items():
        mapped = fit_calibration(scores, mos, "the split's own labels")(scores)
        report[name] = measure(scores, mapped, mos)
        if has_groups:
            table = test[["image", "mos", "group"]].assign(score=scores, quality=np.nan)
            report[f"{name}, within groups"] = group_report(table, "group")["measures"]
    print("PLCC, RMSE and MAE are test-fitted: a bound, not a result")
    print(measures_table({name: report[name] for name in candidates}))
    if has_groups:
        print("Within groups, the ridge regression; PLCC, RMSE and MAE are of raw scores")
        print(measures_table(report["ridge on ImageNet features, within groups"]))
        print(f"Opinions of the {PAIRS} most similar pairs of images in each group:")
        features_of = np.stack([x[path] for path in frame["path"]])
        for name in sorted(frame["group"].unique()):
            rows = (frame["group"] == name).to_numpy()
            distance, correlation = agreement_of_similar_images(features_of[rows], frame["mos"].to_numpy()[rows])
            report[f"similar pairs, {name}"] = {"distance": distance, "correlation": correlation}
            print(f"  {name}: correlation {correlation:.3f}, distance up to {distance:.2f} s.d. of a feature")
    if options.json:
        write_json(options.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
