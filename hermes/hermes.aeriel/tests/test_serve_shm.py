"""Entries of ``/dev/shm`` that nobody is left to remove."""

import os
from pathlib import Path

import pytest

from hermes.aeriel.serve._shm import hold, sweep


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    for name in ("x_1_a", "x_1_b", "x_2_a", "y"):
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_held_stays(entries: Path) -> None:
    let_go = hold("x_1_", entries)
    sweep("x_", entries, age=-1)
    assert "x_1_a" in names(entries)
    let_go()
    # Its server may be ending still: that is known of what has a lock only.
    assert "x_1_lock" in names(entries)
    sweep("x_", entries, age=-1)
    assert names(entries) == ["x_2_a", "y"]


def test_what_nobody_holds_goes(entries: Path) -> None:
    (entries / "x_1_lock").touch()
    sweep("x_", entries)
    assert "x_1_a" in names(entries)  # it may have just begun
    sweep("x_", entries, age=-1)
    assert names(entries) == ["x_2_a", "y"]


def test_a_fork_does_not_let_go_for_its_parent(entries: Path) -> None:
    let_go = hold("x_1_", entries)
    child = os.fork()
    if child == 0:
        let_go()
        os._exit(0)
    os.waitpid(child, 0)
    sweep("x_", entries, age=-1)
    assert "x_1_lock" in names(entries)
    let_go()


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    hold("x_", tmp_path / "gone")()
    sweep("x_", tmp_path / "gone")
