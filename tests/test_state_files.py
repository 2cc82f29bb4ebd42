"""save_pretrained replaces a saved model as a whole, and what is left of two is refused."""

import errno
import os
from pathlib import Path

import pytest
import torch
from small_models import small, weights_of

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import GlobeDiff, files

FIRST, SECOND = {"prediction": "v"}, {"prediction": "eps", "schedule": "vp"}  # of equal sizes: both configs load both


@pytest.mark.parametrize(("owner", "writer"), [(files, "save_file"), (Path, "write_text")])
def test_a_save_that_fails_leaves_the_model_that_was_there(tmp_path, monkeypatch, owner, writer):
    first = small(**FIRST)
    first.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, writer, full)
    with pytest.raises(OSError, match="No space"):
        small(**SECOND).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert torch.equal(weights_of(GlobeDiff.from_pretrained(tmp_path)), weights_of(first))


def test_a_saved_model_may_be_read_by_whom_the_users_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        for _ in range(2):
            small().save_pretrained(tmp_path)
            assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    finally:
        os.umask(before)


def test_a_save_that_is_killed_between_its_files_leaves_none_that_loads_without_a_word(tmp_path, monkeypatch):
    small(**FIRST).save_pretrained(tmp_path)
    replace, done = os.replace, []

    def killed(*paths):
        if done:
            raise KeyboardInterrupt
        done.append(replace(*paths))

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        small(**SECOND).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert '"v"' in (tmp_path / "config.json").read_text()  # the first's, beside weights of the second
    with pytest.raises(UserError, match=r"expects config.json and .* of one save_pretrained, got .* two .*save the"):
        GlobeDiff.from_pretrained(tmp_path)
    small(**SECOND).save_pretrained(tmp_path)
    assert GlobeDiff.from_pretrained(tmp_path).config["prediction"] == "eps"


@pytest.mark.parametrize("left", [0, 5, 200])
def test_torn_weights_get_one_clear_message(tmp_path, left):
    small().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="do not fit"):
        GlobeDiff.from_pretrained(tmp_path)
