"""Training: what it leaves behind, what it refuses, and that nothing but the options decides the result."""

import json
import os
import signal
import urllib.error

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import predict
import prepare
import test as test_entry
import train
from data.datasets import PairDataset
from losses import quality_loss
from models import build_model
from utils.checkpoint import load_checkpoint, load_model
from utils.errors import EXIT_UNUSABLE_INPUT, RunError
from utils.training import initialise
from utils.training import step as training_step


def weights(path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).state_dict


def assert_same_weights(first, second) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_run_leaves_checkpoints_history_and_options(trained):
    assert {path.name for path in trained.snapshots.glob("[!.]*")} == {"best.pth", "last.pth", "previous.pth"}
    history = pd.read_csv(trained.logs / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert {"loss", "lr", "SRCC", "PLCC", "KRCC", "RMSE", "MAE"} <= set(history)
    assert list(pd.read_csv(trained.logs / "speed.csv")) == ["epoch", "seconds", "images_per_s", "data_wait"]
    assert len(pd.read_csv(trained.logs / "split_train.csv")) == 12
    assert len(pd.read_csv(trained.logs / "split_val.csv")) == 6
    options = json.loads((trained.logs / "options.json").read_text())
    assert options["options"]["backbone"] == "timm:test_resnet"
    assert options["environment"]["torch"] == torch.__version__


def test_a_run_leaves_curves_for_those_with_and_without_tensorboard(trained):
    with Image.open(trained.logs / "curves.png") as picture:
        assert picture.format == "PNG"
    events = EventAccumulator(str(trained.logs / "tensorboard")).Reload()
    history = pd.read_csv(trained.logs / "history.csv")
    for tag, column in {"validation/SRCC": "SRCC", "epoch/loss": "loss", "epoch/lr": "lr"}.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2]
        np.testing.assert_allclose([scalar.value for scalar in scalars], history[column], rtol=1e-5)
    shown = " ".join(events.Tags()["images"])
    assert all(f"first batch/{name}" in shown for name in ("aesthetic", "distortion", "salient"))


def test_the_checkpoint_holds_what_each_view_adds_to_validation_scores_on_average(trained, tmp_path):
    loaded = load_model(trained.best)
    words = ["--checkpoint", str(trained.best), "--split=val", f"--logdir={tmp_path}", "--num_workers=0"]
    assert test_entry.main([*words, "--device=cpu"]) == 0
    table = pd.read_csv(tmp_path / "tiny" / "predictions_val.csv")
    means = {name: table[f"points_{name}"].mean() for name in loaded.branch_means}
    assert loaded.branch_means == pytest.approx(means, abs=1e-5)


def test_the_log_is_short_and_names_the_split(trained):
    lines = trained.output.splitlines()
    first_epoch = next(index for index, line in enumerate(lines) if line.startswith("Epoch 1/"))
    assert first_epoch < 20
    assert "12 train, 6 val" in trained.output
    assert not any(f"{number}.jpg" in trained.output for number in range(1, 25)), "a log is no list of files"


def test_the_best_epoch_is_chosen_by_the_validation_criterion(trained):
    history = pd.read_csv(trained.logs / "history.csv")
    criterion = history["SRCC"] + history["PLCC"] + history["KRCC"] - history["RMSE"] - history["MAE"]
    np.testing.assert_allclose(history["criterion"], criterion)
    best = load_checkpoint(trained.snapshots / "best.pth")
    assert best.epoch == history["epoch"][criterion.idxmax()]


def test_last_holds_what_resuming_needs_and_best_does_not(trained):
    last, best = (load_checkpoint(trained.snapshots / f"{name}.pth") for name in ("last", "best"))
    assert last.resume is not None
    assert best.resume is None


def test_the_same_command_gives_the_same_weights_whatever_loads_the_data(command, tmp_path):
    train.main(command("first"))
    train.main(command("second", "--num_workers=2"))
    assert_same_weights(tmp_path / "ckpts/first/last.pth", tmp_path / "ckpts/second/last.pth")


def test_another_seed_gives_other_weights(command, tmp_path):
    train.main(command("first"))
    train.main(command("second", "--random_seed=1"))
    first, second = (weights(tmp_path / f"ckpts/{run}/last.pth") for run in ("first", "second"))
    assert not torch.equal(first["quality.1.weight"], second["quality.1.weight"])


def test_multi_gpu_may_be_true_false_or_absent(command, tmp_path):
    for run, more in {
        "absent": [],
        "false": ["--multi_gpu", "False"],
        "true": ["--multi_gpu", "True", "--device=auto"],
    }.items():
        assert train.main(command(run, *more)) == 0
    assert_same_weights(tmp_path / "ckpts/absent/last.pth", tmp_path / "ckpts/false/last.pth")
    assert weights(tmp_path / "ckpts/true/last.pth").keys() == weights(tmp_path / "ckpts/absent/last.pth").keys()


def test_multi_gpu_takes_all_gpus_and_no_certain_one(command, capsys):
    with pytest.raises(SystemExit):
        train.main(command("one", "--multi_gpu", "--device=cuda:0"))
    assert "CUDA_VISIBLE_DEVICES" in capsys.readouterr().err


def test_bf16_in_the_threads_of_dataparallel_is_refused(command, monkeypatch, capsys):
    parser = train.train_parser()
    options = parser.parse_args(command("half", "--multi_gpu", "--amp=bf16"))
    train.check_options(parser, options)  # one GPU or none: no threads
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit):
        train.check_options(parser, options)
    assert "torchrun" in capsys.readouterr().err


def test_what_is_overwritten_is_not_resumed(command, tmp_path, monkeypatch, capsys):
    assert train.main(command("run")) == 0

    def no_disk(*args):
        raise RunError("stopped before the first save")

    with monkeypatch.context() as patched:
        patched.setattr(train, "train_one_epoch", no_disk)
        assert train.main(command("run", "--random_seed=5", "--overwrite")) == EXIT_UNUSABLE_INPUT
    assert not list((tmp_path / "ckpts/run").glob("[!.]*"))
    assert not (tmp_path / "logs/run/history.csv").exists()


def test_an_overwritten_run_may_start_from_its_own_weights(command, tmp_path):
    assert train.main(command("run")) == 0
    best = tmp_path / "ckpts/run/best.pth"
    assert train.main(command("run", "--overwrite", f"--pretrained_path={best}")) == 0


def test_under_torchrun_a_config_with_multi_gpu_is_accepted(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    parser = train.train_parser()
    train.check_options(parser, parser.parse_args(command("two", "--multi_gpu", "--compile")))


def test_a_batch_larger_than_the_data_set_is_one_short_batch(command):
    assert train.main(command("short", "--batch_size=100")) == 0


def test_a_run_is_never_overwritten_unasked(command, tmp_path, capsys):
    train.main(command("run"))
    before = (tmp_path / "ckpts/run/best.pth").read_bytes()
    capsys.readouterr()
    assert train.main(command("run", "--random_seed=2")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "--run" in message
    assert "--overwrite" in message
    assert (tmp_path / "ckpts/run/best.pth").read_bytes() == before
    assert train.main(command("run", "--random_seed=2", "--overwrite")) == 0
    assert (tmp_path / "ckpts/run/best.pth").read_bytes() != before


def make_csv_dataset(folder, opinions: list[float], images: list[np.ndarray]) -> None:
    rows = []
    for number, (opinion, image) in enumerate(zip(opinions, images, strict=True)):
        Image.fromarray(image).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "mos": opinion, "split": "val" if number % 3 == 2 else "train"})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)


def test_equal_opinions_are_an_error_and_no_endless_loop(command, tmp_path, photograph, capsys):
    make_csv_dataset(tmp_path, [3.0] * 6, [photograph] * 6)
    more = ["--database=csv", f"--metadata={tmp_path}/labels.csv"]
    assert train.main(command("equal", *more, folder=tmp_path)) == EXIT_UNUSABLE_INPUT
    assert "have the same one" in capsys.readouterr().err
    assert not (tmp_path / "ckpts/equal/last.pth").exists()


def test_constant_scores_are_said_to_be_nan_and_the_checkpoint_is_kept(command, tmp_path, photograph, capsys):
    # One photograph under six names: whatever the network learns, its scores are equal.
    make_csv_dataset(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [photograph] * 6)
    more = ["--database=csv", f"--metadata={tmp_path}/labels.csv", "--num_epochs=2"]
    assert train.main(command("constant", *more, folder=tmp_path)) == 0
    output = capsys.readouterr().out
    assert "SRCC nan" in output
    assert "undefined" in output
    assert load_checkpoint(tmp_path / "ckpts/constant/best.pth").epoch == 1
    assert load_checkpoint(tmp_path / "ckpts/constant/last.pth").epoch == 2


def test_a_broken_training_image_is_named(command, tmp_path, photograph, capsys):
    make_csv_dataset(tmp_path, [1.0, 2.0, 3.0, 4.0], [photograph] * 4)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:2000])
    more = ["--database=csv", f"--metadata={tmp_path}/labels.csv", "--num_workers=1"]
    assert train.main(command("broken", *more, folder=tmp_path)) == EXIT_UNUSABLE_INPUT
    assert "1.png" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded_end_the_run_with_a_remedy(command, monkeypatch, capsys):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    assert train.main(command("download", "--init=imagenet")) == EXIT_UNUSABLE_INPUT
    assert "--pretrained_path" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(command, capsys):
    assert train.main(command("diverged", "--lr_weight_L2=1e39")) == EXIT_UNUSABLE_INPUT
    error = capsys.readouterr().err
    assert "loss" in error
    assert ".jpg" in error


def test_pretraining_on_ava_starts_all_three_branches(command, tmp_path, photograph):
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(5):
        Image.fromarray(photograph[:, number * 10 :]).save(tmp_path / f"images/{100 + number}.jpg")
        votes = [number + 1] * 5 + [20 - 3 * number] * 5
        lines.append(" ".join(map(str, [number + 1, 100 + number, *votes, 1, 2, 1396])))
    (tmp_path / "AVA.txt").write_text("\n".join(lines) + "\n")
    assert train.main(command("ava", "--database=AVA", "--model=Model_SwinT", folder=tmp_path / "images")) == 0

    pretrained = tmp_path / "ckpts/ava/last.pth"
    assert train.main(command("uiqa", f"--pretrained_path={pretrained}", "--lr=1e-30", "--weight_decay=0")) == 0
    trunk, model = weights(pretrained), weights(tmp_path / "ckpts/uiqa/last.pth")
    key = next(name.removeprefix("feature_extraction.") for name in trunk if name.endswith("conv1.weight"))
    for branch in ("aesthetics", "distortion", "saliency"):
        torch.testing.assert_close(model[f"{branch}_feature_extraction.{key}"], trunk[f"feature_extraction.{key}"])


def test_validation_measures_are_on_the_data_sets_scale(command, tmp_path):
    """What the history says of the last epoch is what test.py finds with the checkpoint, scale folded in."""
    train.main(command("scaled", "--mos_scale=standardise"))
    history = pd.read_csv(tmp_path / "logs/scaled/history.csv").iloc[-1]
    checkpoint = tmp_path / "ckpts/scaled/last.pth"
    test_entry.main(["--checkpoint", str(checkpoint), "--split=val", f"--logdir={tmp_path}/logs", "--num_workers=0"])
    measured = json.loads((tmp_path / "logs/scaled/test_val.json").read_text())["val_fitted"]
    for name in ("SRCC", "KRCC", "PLCC", "RMSE", "MAE"):
        assert measured[name] == pytest.approx(history[name], abs=1e-3)  # six points hardly determine the mapping
    assert load_model(checkpoint).calibration.fitted_on == "validation"


def test_compile_is_refused_with_dataparallel_before_the_work(command, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(command("compiled", "--compile", "--multi_gpu"))
    assert stop.value.code == EXIT_UNUSABLE_INPUT
    assert "--multi_gpu" in capsys.readouterr().err


def test_training_from_a_pack_is_training_from_the_images(command, tiny_model_options, tiny_dataset, tmp_path):
    """With two draws for each epoch, to the last digit of history and weights."""
    views = [
        word for word in tiny_model_options if not word.startswith(("--backbone", "--init", "--mos", "--b", "--lr"))
    ]
    words = ["pack", f"--database_dir={tiny_dataset}", f"--out={tmp_path}/pack", "--draws=4", "--num_workers=0", *views]
    assert prepare.main(words) == 0
    assert train.main(command("direct", "--num_epochs=2")) == 0
    assert train.main(command("packed", "--num_epochs=2", f"--packed={tmp_path}/pack", "--num_workers=2")) == 0
    assert_same_weights(tmp_path / "ckpts/direct/last.pth", tmp_path / "ckpts/packed/last.pth")
    direct, packed = (pd.read_csv(tmp_path / "logs" / run / "history.csv") for run in ("direct", "packed"))
    pd.testing.assert_frame_equal(direct, packed, check_exact=True)


def test_a_pack_that_does_not_fit_is_refused_before_the_work(command, tmp_path, capsys):
    assert train.main(command("packed", f"--packed={tmp_path}/none")) == EXIT_UNUSABLE_INPUT
    assert "prepare.py pack" in capsys.readouterr().err
    assert not list((tmp_path / "ckpts/packed").glob("[!.]*"))


def test_the_images_of_a_loss_that_is_not_finite_are_named(command, capsys, monkeypatch):
    def not_finite(*args):
        losses = quality_loss(*args)
        return {name: loss * torch.nan for name, loss in losses.items()}

    monkeypatch.setattr(training_step, "quality_loss", not_finite)
    assert train.main(command("diverged")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "epoch 1, step 1 is nan" in message
    assert message.count(".jpg") == 8


def test_the_gradients_norm_is_limited(command, monkeypatch):
    norms = []

    def step(self, *words, **more):
        squares = [parameter.grad.square().sum() for group in self.param_groups for parameter in group["params"]]
        norms.append(float(torch.stack(squares).sum().sqrt()))

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    assert train.main(command("free")) == 0
    free, norms[:] = list(norms), []
    limit = min(free) / 2
    assert train.main(command("limited", f"--clip_grad={limit}")) == 0
    np.testing.assert_allclose(norms, limit, rtol=1e-3)


def test_a_data_worker_that_is_killed_ends_the_run_with_one_line(command, monkeypatch, capsys):
    monkeypatch.setattr(PairDataset, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert train.main(command("killed", "--num_workers=1")) == EXIT_UNUSABLE_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "killed by signal: Killed" in line
    assert "--num_workers" in line


def test_data_without_a_test_split_are_not_sent_to_one(command, tmp_path, photograph, capsys):
    make_csv_dataset(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0], [photograph[:, 10 * shift :] for shift in range(5)])
    more = ["--database=csv", f"--metadata={tmp_path}/labels.csv"]
    assert train.main(command("untested", *more, folder=tmp_path)) == 0
    assert "has no test split" in capsys.readouterr().out.splitlines()[-1]


def test_imagenet_weights_are_had_for_each_size_of_view(command, monkeypatch):
    asked = []

    def random_weights(backbone, size):
        asked.append(size)
        return build_model("SwinT", backbone=backbone, view_sizes={"aesthetic": size}).feature_extraction.state_dict()

    monkeypatch.setattr(initialise, "imagenet_state_dict", random_weights)
    assert train.main(command("sizes", "--init=imagenet", "--n_fragment=3")) == 0
    assert sorted(asked) == [64, 96]


def test_a_deterministic_run_has_the_same_history_to_the_last_digit(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        for run in ("one", "other"):
            assert train.main(command(run, "--deterministic", "--num_epochs=2")) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    one, other = (tmp_path / "logs" / run / "history.csv" for run in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--pairing=batch", "--accumulate=2"], "--pairing partner"),
        (["--resume=auto", "--overwrite"], "one of them"),
        (["--ema=1"], "less than 1"),
        (["--freeze_stages=5"], "the trunk has 4 stages"),
        (["--precision=bf16"], "timm:test_resnet has not been measured"),
        (["--model=SwinT", "--branches=salient"], "SwinT has one trunk"),
        (["--branches=salient,tasteful"], "one or more of aesthetic,distortion,salient"),
        (["--branches=salient", "--map_weight=1"], "--map_weight needs the distortion view"),
        (["--n_fragment=1", "--map_weight=1"], "--n_fragment 2"),
        (["--multi_gpu=True", "--map_weight=1"], "add --multi_gpu False"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, remedy, command, capsys):
    with pytest.raises(SystemExit):
        train.main(command("run", *words))
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--branches=salient,distortion"],
        ["--shared_trunk"],
        ["--model=Patches", "--patch_dimension=64", "--validation_patches=2"],
        ["--model=Patches", "--patch_dimension=64", "--patch_policy=texture"],
    ],
)
def test_another_way_of_looking_is_trained_tested_and_used(words, command, tiny_dataset, tmp_path, capsys):
    assert train.main(command("other", *words)) == 0
    best = tmp_path / "ckpts/other/best.pth"
    loaded = load_model(best)
    logs = f"--logdir={tmp_path}/logs"
    assert test_entry.main([f"--checkpoint={best}", logs, "--num_workers=0", "--device=cpu", "--report"]) == 0
    assert (tmp_path / "logs/other/report_test.html").stat().st_size > 10_000
    table = pd.read_csv(tmp_path / "logs/other/predictions_test.csv")
    assert [name for name in table if name.startswith("points_")] == [
        f"points_{name}" for name in loaded.view_spec.views
    ]
    image = str(next(tiny_dataset.rglob("*.jpg")))
    capsys.readouterr()
    picture = ["--map", str(tmp_path / "maps")]
    scored = [image, f"--checkpoint={best}", "--device=cpu"]
    if "--model=Patches" in words:
        assert predict.main(scored) == 0
        with pytest.raises(SystemExit):
            predict.main([*scored, *picture])
        assert "this model reads patches" in capsys.readouterr().err
        assert loaded.view_spec.patches == 0  # all are looked at but in validation
    else:
        assert predict.main([*scored, *picture]) == 0
        assert len(list((tmp_path / "maps").iterdir())) == 1


def test_more_validation_patches_than_pixels_allow_are_refused(command, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(command("many", "--model=Patches", "--patch_dimension=64", "--validation_patches=100000"))
    assert stop.value.code == 2
    assert "got 100000 of 64 x 64" in capsys.readouterr().err


def test_a_model_learns_from_anothers_scores(command, tiny_dataset, tmp_path):
    labels = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    names = labels[labels["set"] == "training"]["image_name"]
    scores = pd.DataFrame({"image": names, "mos": 0.5, "score": np.linspace(0, 1, len(names))})
    scores.to_csv(tmp_path / "teacher.csv", index=False)
    assert train.main(command("alone")) == 0
    assert train.main(command("taught", f"--distill_from={tmp_path}/teacher.csv")) == 0
    first, second = (weights(tmp_path / f"ckpts/{run}/last.pth") for run in ("alone", "taught"))
    assert not torch.equal(first["quality.0.weight"], second["quality.0.weight"])
