"""Reading command lines: configs that only override, and errors that name what is wrong."""

import argparse
import io
import os
import sys

import pytest
import torch

import flops
from data.tables import TableError
from utils.command_line import (
    add_flag,
    entry_point,
    file_name,
    make_folder,
    make_parser,
    output_file,
    page_file,
    parse_options,
    table_file,
)
from utils.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, EXIT_UNUSABLE_INPUT, RunError
from utils.training.options import train_parser


def write_config(tmp_path, text: str) -> str:
    (tmp_path / "run.yaml").write_text(text)
    return f"--config={tmp_path}/run.yaml"


def refused(capsys, parser, args) -> str:
    """Return argparse's message for a command line that it must refuse."""
    with pytest.raises(SystemExit) as stop:
        parse_options(parser, args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_command_line_wins_over_the_config(tmp_path):
    config = write_config(tmp_path, "lr: 0.5\nnum_epochs: 7\n")
    options = parse_options(train_parser(), ["--num_epochs=3", config])
    assert (options.lr, options.num_epochs) == (0.5, 3)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rate: 0.1", "--learning_rate"),
        ("num_epoch: 3", "--num_epoch"),
        ("num_epochs: many", "many"),
        ("lr: nan", "nan"),
        ("random_seed: -1", "-1"),
        ("model: VGG", "VGG"),
        ("multi_gpu: perhaps", "perhaps"),
        ("views: {a: 1}", "views"),
        ("lr: [1, 2]", "lr"),
        ("- a\n- b", "option: value"),
        ("a: b: c", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_config_with_a_fault_is_refused_naming_the_file_and_the_fault(text, named, tmp_path, capsys):
    message = refused(capsys, train_parser(), [write_config(tmp_path, text)])
    assert "run.yaml" in message
    assert named in message


def test_a_missing_config_is_named(tmp_path, capsys):
    assert "absent.yaml" in refused(capsys, train_parser(), [f"--config={tmp_path}/absent.yaml"])


def test_an_empty_config_is_no_override(tmp_path):
    config = write_config(tmp_path, "# nothing differs\n")
    assert parse_options(train_parser(), [config]).lr == parse_options(train_parser(), []).lr


@pytest.mark.parametrize("word", ["on", "yes", "off", "none"])
def test_yaml_leaves_words_words(word, tmp_path):
    assert parse_options(train_parser(), [write_config(tmp_path, f"run: {word}")]).run == word


@pytest.mark.parametrize(
    ("words", "value"),
    [([], False), (["--multi_gpu"], True), (["--multi_gpu", "True"], True), (["--multi_gpu", "False"], False)],
)
def test_a_flag_means_what_it_says(words, value):
    assert parse_options(train_parser(), [*words, "--lr=1"]).multi_gpu is value


def test_there_are_no_abbreviations(capsys):
    assert "--num_epoch" in refused(capsys, train_parser(), ["--num_epoch=3"])


def test_another_entry_point_takes_from_a_config_what_it_knows(tmp_path, capsys):
    config = write_config(tmp_path, "lr: 0.5\nbackbone: swin_nano\n")
    options = parse_options(flops.flops_parser(), [config], config_parser=train_parser())
    assert options.backbone == "swin_nano"
    assert not hasattr(options, "lr")
    wrong = write_config(tmp_path, "backbon: swin_nano\n")
    with pytest.raises(SystemExit):
        parse_options(flops.flops_parser(), [wrong], config_parser=train_parser())
    assert "--backbon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TableError("labels.csv: no rows"), EXIT_UNUSABLE_INPUT),
        (KeyboardInterrupt(), EXIT_INTERRUPTED),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), EXIT_UNUSABLE_INPUT),
        (PermissionError(13, "Permission denied", "labels.csv"), 2),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_an_exit_code(error, code, capsys):
    @entry_point
    def main(args=None):
        raise error

    assert main([]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_error_of_ours_keeps_its_traceback():
    @entry_point
    def main(args=None):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        main([])


def test_an_error_is_one_line_and_no_page_of_usage(capsys):
    assert len(refused(capsys, train_parser(), ["--lr=fast"]).splitlines()) == 1


def test_an_output_is_checked_before_the_work_and_its_folder_made(tmp_path, capsys):
    parser = make_parser("")
    parser.add_argument("--csv", type=output_file)
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path, tmp_path / "file" / "scores.csv"):
        assert str(tmp_path) in refused(capsys, parser, [f"--csv={wrong}"])
    assert parser.parse_args([f"--csv={tmp_path}/new/scores.csv"]).csv == f"{tmp_path}/new/scores.csv"
    assert (tmp_path / "new").is_dir()
    assert parser.parse_args(["--csv=-"]).csv == "-"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/below"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "/tmp/x"])
def test_a_runs_name_is_no_path(name, capsys):
    parser = make_parser("")
    parser.add_argument("--run", type=file_name)
    assert "cannot be a run's name" in refused(capsys, parser, [f"--run={name}"])
    assert parser.parse_args(["--run=uhd-iqa_2.1"]).run == "uhd-iqa_2.1"


def test_a_compiler_that_fails_is_one_line_with_a_way_on(capsys):
    failure = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    @entry_point
    def main(args):
        raise failure("\nNo working C++ compiler found\na page of text")

    assert main([]) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "No working C++ compiler found" in message
    assert "leave out --compile" in message
    assert "a page of text" not in message


def test_a_fault_of_ours_is_not_hidden():
    @entry_point
    def main(args):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        main([])


def test_an_unexpected_error_prints_its_traceback_once_and_has_its_own_exit_code(capsys):
    @entry_point
    def main(args):
        raise RuntimeError("a fault")

    assert main() == EXIT_UNEXPECTED
    assert capsys.readouterr().err.count("RuntimeError: a fault") == 1


@pytest.fixture
def photographs_parser():
    parser = make_parser("")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--csv", type=table_file)
    add_flag(parser, "--compile", "a flag")
    return parser


@pytest.mark.parametrize(
    ("arguments", "compile_"),
    [
        ("a.jpg b.jpg", False),
        ("--compile a.jpg b.jpg", True),
        ("a.jpg --compile b.jpg", True),
        ("a.jpg b.jpg --compile", True),
        ("--compile False a.jpg b.jpg", False),
        ("a.jpg --compile=yes b.jpg", True),
    ],
)
def test_a_flag_takes_no_photograph_and_the_order_does_not_matter(photographs_parser, arguments, compile_):
    options = parse_options(photographs_parser, arguments.split())
    assert (options.images, options.compile) == (["a.jpg", "b.jpg"], compile_)


def test_what_follows_two_dashes_is_a_photograph_whatever_it_looks_like(photographs_parser):
    options = parse_options(photographs_parser, ["a.jpg", "--compile", "--", "-dash.jpg", "--csv=x.jpg", "b.jpg"])
    assert options.images == ["a.jpg", "./-dash.jpg", "./--csv=x.jpg", "b.jpg"]
    assert options.csv is None


@pytest.mark.parametrize("name", ["photo.jpg", "PHOTO.TIFF", "best.pth", "w.safetensors", "m.onnx", "UIQA.npy"])
def test_results_do_not_replace_photographs_or_weights(photographs_parser, name, tmp_path, capsys):
    message = refused(capsys, photographs_parser, ["a.jpg", f"--csv={tmp_path / name}"])
    assert "photograph or of weights" in message


@pytest.mark.parametrize("name", ["photo.nef", "photo.gif", "model.ckpt", "weights"])
def test_results_replace_no_file_that_is_not_text(photographs_parser, name, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(b"II*\0" + bytes(range(256)) * 40)
    assert f"{path} is not a text file; give another name" in refused(
        capsys, photographs_parser, ["a.jpg", f"--csv={path}"]
    )
    path.write_text("image,error\na.jpg,\n" * 1000)
    assert parse_options(photographs_parser, ["a.jpg", f"--csv={path}"]).csv == str(path)


def test_results_do_not_replace_links_pipes_or_devices(photographs_parser, tmp_path, capsys):
    (tmp_path / "kept.csv").write_text("kept")
    (tmp_path / "link.csv").symlink_to(tmp_path / "kept.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "link.csv", tmp_path / "pipe.csv", "/dev/null"):
        assert "link, a pipe or a device" in refused(capsys, photographs_parser, ["a.jpg", f"--csv={path}"])
    assert parse_options(photographs_parser, ["a.jpg", f"--csv={tmp_path}/kept.csv"]).csv.endswith("kept.csv")


def test_a_system_error_names_the_file_the_cause_and_a_remedy(capsys):
    @entry_point
    def main(args):
        raise OSError(28, "No space left on device", "a\n.csv")

    assert main([]) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert message == "error: a\\n.csv: No space left on device; make room on the disk, or write to another one\n"


def test_an_interruption_can_say_what_was_saved(capsys):
    @entry_point
    def main(args):
        raise KeyboardInterrupt("3 rows are in scores.csv.partial")

    assert main([]) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted: 3 rows are in scores.csv.partial\n"


def test_letters_that_standard_output_lacks_are_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)

    @entry_point
    def main(args):
        print("\u5199.jpg")
        return 0

    assert main([]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u5199.jpg\n"


@pytest.mark.parametrize("error", [TableError("a\x1b[2J.jpg: no rows"), RunError("a\x1b[2J.jpg")])
def test_names_in_errors_cannot_command_the_terminal(error, capsys):
    @entry_point
    def main(args):
        raise error

    assert main([]) == EXIT_UNUSABLE_INPUT
    assert r"a\x1b[2J.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["", "old.csv"])
def test_a_folder_or_file_that_is_read_only_is_named_before_the_work(tmp_path, monkeypatch, closed):
    (tmp_path / "old.csv").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != os.fspath(tmp_path / closed))
    with pytest.raises(argparse.ArgumentTypeError, match="read-only; give another path") as raised:
        output_file(f"{tmp_path}/old.csv")
    assert f"{tmp_path}/old.csv cannot be written: {tmp_path / closed}" in str(raised.value)
    if not closed:
        with pytest.raises(RunError, match="read-only"):
            make_folder(tmp_path)


def test_a_name_that_the_system_refuses_is_one_error(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="too long; give a shorter name"):
        output_file(f"{tmp_path}/{'x' * 300}.csv")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be written"):
        output_file(f"{tmp_path}/loop/a.csv")
    with pytest.raises(RunError, match="too long"):
        make_folder(tmp_path / ("x" * 300))
    with pytest.raises(RunError, match="empty"):
        make_folder("")


def test_a_data_worker_that_dies_is_one_line_wherever_torch_raises(capsys):
    @entry_point
    def main(args):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    assert main([]) == EXIT_UNUSABLE_INPUT
    assert capsys.readouterr().err.startswith("error: DataLoader worker (pid 5) is killed by signal: Killed, perhaps")


def test_a_page_is_written_to_a_file_that_browsers_take_for_one(tmp_path):
    for name in ("page.html", "PAGE.HTM", "new/page.html"):
        assert page_file(str(tmp_path / name)) == str(tmp_path / name)
    (tmp_path / "binary.html").write_bytes(b"\0")
    for name, message in {"": "not the name", "-": "not the name", "photo.jpg": "not the name"}.items():
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            page_file(name)
    with pytest.raises(argparse.ArgumentTypeError, match="not a text file"):
        page_file(str(tmp_path / "binary.html"))
