"""The key file of a data folder: made once, for its owner only, and read again at every start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from taskstream.settings import InvalidSettings, Settings
from taskstream.vault.key_file import ensure_key_file, with_key_file
from taskstream.vault.sealing import Sealer, new_key


def in_folder(folder: Path, *keys: str) -> Settings:
    return Settings(data_dir=str(folder), seal_keys=keys)


def test_the_first_start_makes_a_key_and_later_ones_read_it(tmp_path: Path) -> None:
    made = ensure_key_file(in_folder(tmp_path)).seal_keys

    assert len(made) == 1
    assert Sealer(made).available
    assert ensure_key_file(in_folder(tmp_path)).seal_keys == with_key_file(in_folder(tmp_path)).seal_keys == made
    assert [path.name for path in tmp_path.iterdir()] == ["seal.key"]


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        ensure_key_file(in_folder(tmp_path))
    finally:
        os.umask(umask)

    assert stat.S_IMODE((tmp_path / "seal.key").stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    ensure_key_file(in_folder(tmp_path))
    (tmp_path / "seal.key").chmod(0o644)

    with capture_logs() as logged:
        with_key_file(in_folder(tmp_path))

    assert [line["event"] for line in logged] == ["seal-key.exposed"]
    assert "chmod 600" in logged[0]["action"]


def test_a_start_that_was_killed_before_leaves_no_half_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "seal.key.new").write_text("half of a k")

    keys = ensure_key_file(in_folder(tmp_path)).seal_keys

    assert keys == tuple((tmp_path / "seal.key").read_text().split())
    assert not (tmp_path / "seal.key.new").exists()


def test_given_keys_come_first_and_no_file_is_made_beside_them(tmp_path: Path) -> None:
    given, older = new_key(), new_key()
    assert ensure_key_file(in_folder(tmp_path, given)).seal_keys == (given,)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "seal.key").write_text(f"{older}\n")
    assert ensure_key_file(in_folder(tmp_path, given)).seal_keys == (given, older)


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    assert with_key_file(in_folder(tmp_path / "absent")) == in_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    "content", ["", "\n", "rubbish", "ä", new_key()[:-1]], ids=["empty", "line", "word", "not-ascii", "short"]
)
def test_a_file_without_a_key_is_refused_and_kept(content: str, tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    path.write_text(content)

    with pytest.raises(InvalidSettings, match=r"seal\.key: ") as refused:
        ensure_key_file(in_folder(tmp_path))

    assert content.strip() == "" or content not in str(refused.value)
    assert path.read_text() == content


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidSettings, match=r"absent/seal.key: cannot be written: No such file.*TASKSTREAM_SEAL_KEYS"
    ):
        ensure_key_file(in_folder(tmp_path / "absent"))
