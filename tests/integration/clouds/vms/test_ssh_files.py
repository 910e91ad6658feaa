"""Files to and from machines: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sshd

from hermes.cloudbreak import errors
from hermes.cloudbreak.ssh import Hosts


@pytest.fixture
def one(machines: list[sshd.Sshd], ssh_key: Path) -> Hosts:
    with Hosts([machines[0].host], sshd.USERNAME, ssh_key) as made:
        yield made


@pytest.mark.parametrize(
    ("mode", "umask", "wanted"),
    [
        (0o644, 0o022, 0o644),
        (0o755, 0o027, 0o750),
        (0o600, 0o022, 0o600),
        (0o400, 0o022, 0o400),
    ],
)
def test_a_copy_has_the_mode_of_the_file_and_of_what_is_new_here(
    one: Hosts, tmp_path: Path, mode: int, umask: int, wanted: int
) -> None:
    source = tmp_path / "source"
    source.write_text("content")
    source.chmod(mode)
    before = os.umask(umask)
    try:
        one.get(str(source), tmp_path)
        one.put(source, f"{tmp_path}/there")
    finally:
        os.umask(before)
    copy = tmp_path / "vm-0" / "source"
    assert copy.read_text() == "content"
    assert copy.stat().st_mode & 0o777 == wanted
    assert (tmp_path / "there").stat().st_mode & 0o777 == mode


def test_a_file_without_hard_links_and_with_a_long_name_is_copied(
    one: Hosts, tmp_path: Path
) -> None:
    name = "n" * 255
    (tmp_path / name).write_bytes(b"content")
    one.get(f"{tmp_path}/{name}", tmp_path)
    one.put(tmp_path / name, f"{tmp_path}/vm-0/{'m' * 255}")
    for each in (tmp_path / "vm-0").iterdir():
        assert each.read_bytes() == b"content"
        assert each.stat().st_nlink == 1


def test_a_copy_that_was_cut_short_is_an_error(
    one: Hosts, tmp_path: Path
) -> None:
    # The kernel says that it has 4096 bytes, and gives a few of them.
    source = Path("/sys/devices/system/cpu/online")
    if source.stat().st_size <= len(source.read_bytes()):
        pytest.skip("no file here is shorter than its size")
    with pytest.raises(errors.HostsFailed, match="of 4096 bytes have come"):
        one.get(str(source), tmp_path)
    with pytest.raises(errors.HostsFailed, match="of 4096 bytes have come"):
        one.put(source, f"{tmp_path}/vm-0/copy")
    assert [*(tmp_path / "vm-0").iterdir()] == []


def test_a_machine_that_does_not_say_why_leaves_a_guess(
    one: Hosts, tmp_path: Path
) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.write_bytes(bytes(10))
    folder.mkdir()
    with pytest.raises(
        errors.HostsFailed, match="is its disk full, or that a folder"
    ):
        one.put(source, str(folder))
    assert sorted(tmp_path.iterdir()) == [folder, source]


def test_a_file_that_is_not_here_is_refused_before_anything_is_sent(
    hosts: Hosts, tmp_path: Path
) -> None:
    for i in range(2):
        (tmp_path / f"{i}").touch()
    with pytest.raises(
        errors.InvalidSpec, match=r"\{n\}': there is no such file for vm-2"
    ):
        hosts.put(tmp_path / "{n}", f"{tmp_path}/to-{{n}}", n=range(3))
    assert not [*tmp_path.glob("to-*")]
