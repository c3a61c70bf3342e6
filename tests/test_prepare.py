"""prepare.py synthetic: making the demo set. Packing is tested end to end with the packs."""

import prepare
from utils.errors import EXIT_UNUSABLE_INPUT

SMALL = ["--scenes=3", "--height=96", "--width=128", "--num_workers=1"]


def test_a_data_set_is_made_and_replaced_only_with_overwrite(tmp_path, capsys):
    out = ["synthetic", f"--out={tmp_path}", *SMALL]
    assert prepare.main(out) == 0
    labels = tmp_path / "uhd-iqa-metadata.csv"
    before = labels.read_bytes()
    assert prepare.main([*out, "--seed=5"]) == EXIT_UNUSABLE_INPUT
    assert "--overwrite" in capsys.readouterr().err
    assert labels.read_bytes() == before
    assert prepare.main([*out, "--seed=5", "--overwrite"]) == 0
    assert labels.read_bytes() != before


def test_a_disk_without_space_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert prepare.main(["synthetic", f"--out={tmp_path}", *SMALL]) == EXIT_UNUSABLE_INPUT
    assert "free" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_folder_that_cannot_be_created_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert prepare.main(["synthetic", f"--out={tmp_path}/file/below", *SMALL]) == EXIT_UNUSABLE_INPUT
    assert "file" in capsys.readouterr().err
