"""The options of test.py: what is not given comes from the checkpoint."""

import pytest

import test as test_entry
from utils.options import DATA_OPTIONS
from utils.reporting.options import test_parser as make_parser


def test_data_options_that_are_not_given_have_no_default():
    options = make_parser().parse_args(["--checkpoint", "best.pth"])
    assert {getattr(options, name) for name in DATA_OPTIONS} == {None}
    assert options.split is None


@pytest.mark.parametrize("words", [["--split", "training"], ["--batch_size", "0"], ["--compare", "one.csv"]])
def test_values_that_cannot_be_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(words)
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "a.csv", "b.csv", "--report"], "leave out --report"),
        (["--compare", "a.csv", "b.csv", "--group_by", "subset"], "leave out --group_by"),
        (["--predictions", "a.csv", "--calibration", "UIQA.npy"], "--calibration: the qualities of --predictions stay"),
        (["--predictions", "a.csv", "--controls"], "leave out --predictions"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        test_entry.main(words)
    assert message in capsys.readouterr().err
