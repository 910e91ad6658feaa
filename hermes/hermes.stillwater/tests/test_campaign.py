"""Campaigns in one process; those that are killed are in integration tests."""

import json
import logging
import os
import resource
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from hermes.stillwater.campaign import Campaign, CampaignStatus, Segment
from hermes.stillwater.errors import (
    CampaignRunning,
    ExecutorBroken,
    InvalidCampaign,
    ManifestUnusable,
    ManifestUnwritable,
)

UNITS = [Segment(100 * number, 64) for number in range(10)]


def write(unit, output):
    output.write_text(repr(unit))


def refuse(unit, _output):
    raise ValueError(f"{unit} has no data")


@pytest.fixture
def threads():
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "out" / "manifest.jsonl"


class Breaking(Executor):
    """Does what it is given, until it comes to what breaks it."""

    def __init__(self, breaks_at, error=None, num_held=2):
        self._breaks_at = breaks_at
        self._error = error
        self._num_held = num_held
        self._held = []
        self._is_broken = False

    def submit(self, function, task):
        future = Future()
        if self._is_broken:
            raise self._error or RuntimeError("it is broken")
        if task.key == self._breaks_at:
            self._break(future)
        elif len(self._held) < self._num_held:
            self._held.append(future)
        else:
            future.set_result(function(task))
        return future

    def _break(self, future):
        self._is_broken = True
        for each in [*self._held, future]:
            if self._error is None:
                each.cancel()
                each.set_running_or_notify_cancel()
            else:
                each.set_exception(self._error)


class Closed(Executor):
    """Was shut down before."""

    def submit(self, function, task):
        raise RuntimeError(f"cannot schedule {function} of {task}")


def test_outputs_are_whole_files_with_rows(manifest, threads):
    campaign = Campaign(UNITS, write, manifest, suffix=".txt")
    status = campaign.run(threads)
    assert status == CampaignStatus(done=10, skipped=0, remaining=0)
    for unit in UNITS:
        path = manifest.parent / f"{unit.key}.txt"
        assert path.read_text() == repr(unit)
        assert campaign.outputs()[unit.key] == path
    header, *rows = map(json.loads, manifest.read_text().splitlines())
    assert header["run"] == "write"
    assert {row["key"] for row in rows} == {unit.key for unit in UNITS}
    assert {row["outputs"][0]["path"] for row in rows} == {
        path.name for path in campaign.outputs().values()
    }
    assert len(list(manifest.parent.iterdir())) == 11


def test_a_second_run_does_nothing(manifest, threads):
    Campaign(UNITS, write, manifest).run(threads)
    content = manifest.read_bytes()
    status = Campaign(UNITS, write, manifest).run(threads)
    assert (status.done, status.skipped) == (0, 10)
    assert manifest.read_bytes() == content


def test_folders_are_outputs_too_and_replace_what_was_there(manifest, threads):
    def write_folder(unit, output):
        (output / "sub").mkdir(parents=True)
        (output / "sub" / "a").write_text(repr(unit))
        (output / "b").write_text("b")
        output.with_name("scratch").mkdir()

    campaign = Campaign(UNITS, write_folder, manifest)
    campaign.run(threads)
    first = campaign.outputs()[UNITS[0].key]
    assert (first / "sub" / "a").read_text() == repr(UNITS[0])
    (first / "b").unlink()
    (first / "stale").touch()
    assert campaign.status().remaining == 1
    assert campaign.run(threads).done == 1
    assert {path.name for path in first.iterdir()} == {"sub", "b"}
    assert not list(manifest.parent.rglob("scratch"))


@pytest.mark.parametrize("harm", ["delete", "truncate", "folder"])
def test_outputs_that_are_not_as_recorded_are_made_again(
    manifest, threads, harm
):
    campaign = Campaign(UNITS, write, manifest)
    campaign.run(threads)
    path = campaign.outputs()[UNITS[3].key]
    path.unlink()
    if harm == "truncate":
        path.write_text("short")
    elif harm == "folder":
        path.mkdir()
    assert campaign.status() == CampaignStatus(9, 0, 1)
    assert campaign.run(threads) == CampaignStatus(1, 9, 0)
    assert path.read_text() == repr(UNITS[3])


def test_units_that_fail_are_listed_and_left_alone(manifest, threads):
    campaign = Campaign(["a", "b"], refuse, manifest, max_attempts=2)
    status = campaign.run(threads)
    assert (status.done, status.remaining) == (0, 0)
    assert status.failed.keys() == {"a", "b"}
    assert status.failed["a"].attempts == 2
    assert "ValueError: a has no data" in status.failed["a"].error
    assert campaign.run(threads).failed == status.failed
    assert campaign.status().failed == status.failed
    assert len(manifest.read_text().splitlines()) == 1 + 4
    campaign.run(threads, retry_failed=True)
    assert len(manifest.read_text().splitlines()) == 1 + 8


def test_states_can_be_read():
    status = CampaignStatus(1, 2, 3, dict.fromkeys("abcd"))
    assert repr(status) == (
        "<CampaignStatus: 1 done, 2 done before, 3 remaining, 4 failed"
        " (a, b, c, ...)>"
    )
    campaign = Campaign(["ab", "c"], write, "/x/m.jsonl")
    assert repr(campaign) == "<Campaign: write of 2 units, /x/m.jsonl>"


def test_a_campaign_that_never_ran_has_a_status(manifest):
    assert Campaign(UNITS, write, manifest).status().remaining == 10
    assert not manifest.parent.exists()


def test_no_more_than_asked_are_in_flight(manifest, threads):
    seen = []
    Campaign(UNITS, write, manifest).run(
        threads, in_flight=2, progress=lambda p: seen.append(p.flying)
    )
    assert max(seen) <= 2


def test_nothing_is_printed_unless_asked(manifest, threads, capfd, caplog):
    with caplog.at_level(logging.INFO, "hermes.stillwater"):
        Campaign(["a"], refuse, manifest).run(threads)
    assert capfd.readouterr() == ("", "")
    assert "unit a, attempt 3: ValueError: a has no data" in caplog.messages
    assert "0/1 units done, 1 failed" in caplog.text


def test_another_run_at_the_same_time_is_refused(manifest, threads):
    def run_another(unit, output):
        write(unit, output)
        with pytest.raises(CampaignRunning, match="by another process: wait"):
            Campaign(["a"], run_another, manifest).run(threads)

    status = Campaign(["a"], run_another, manifest).run(threads)
    assert status.failed == {}


def test_programs_that_a_unit_starts_do_not_hold_the_lock(manifest, threads):
    def fork(unit, output):
        write(unit, output)
        # It has been executed when this returns, with every fd that may be.
        command = ["/bin/sleep", "100"]
        children.append(subprocess.Popen(command, close_fds=False))

    children = []
    campaign = Campaign(["a"], fork, manifest)
    campaign.run(threads)
    try:
        campaign.run(threads)
    finally:
        children[0].kill()
        children[0].wait()


def test_manifests_of_others_are_refused_and_left_as_they_are(
    manifest, threads
):
    Campaign(UNITS, write, manifest).run(threads)
    content = manifest.read_bytes()
    for other in (
        Campaign(UNITS, refuse, manifest),
        Campaign(UNITS, write, manifest, suffix=".h5"),
        Campaign({UNITS[0].key: 1}, write, manifest),
        Campaign(["a"], write, manifest),
    ):
        with pytest.raises(ManifestUnusable, match="is not this campaign's"):
            other.run(threads)
        with pytest.raises(ManifestUnusable, match="Give another path"):
            other.status()
    assert manifest.read_bytes() == content


def test_identity_decides_instead_of_the_function(manifest, threads):
    Campaign(UNITS, write, manifest, identity="v1").run(threads)
    again = Campaign(UNITS, write, manifest, identity="v1")
    assert again.status().done == 10
    with pytest.raises(ManifestUnusable, match="with other arguments"):
        Campaign(UNITS, write, manifest, identity="v2").status()


def test_a_file_that_is_no_manifest_is_left_as_it_is(tmp_path, threads):
    path = tmp_path / "thesis.txt"
    path.write_text("Chapter 1")
    with pytest.raises(ManifestUnusable, match="first line is not"):
        Campaign(UNITS, write, path).run(threads)
    assert path.read_text() == "Chapter 1"


def test_a_manifest_that_cannot_be_made_is_an_error(tmp_path, threads):
    (tmp_path / "file").touch()
    campaign = Campaign(UNITS, write, tmp_path / "file" / "manifest.jsonl")
    with pytest.raises(ManifestUnwritable, match="cannot be written"):
        campaign.run(threads)
    campaign = Campaign(
        UNITS, write, tmp_path / "m.jsonl", outputs=tmp_path / "file"
    )
    with pytest.raises(ManifestUnwritable, match="give a folder of yours"):
        campaign.run(threads)


def test_what_is_no_file_is_no_manifest(tmp_path):
    for path in tmp_path, "/dev/full":
        campaign = Campaign(UNITS, write, path, outputs=tmp_path / "o")
        with pytest.raises(ManifestUnusable, match="is no file: give"):
            campaign.status()


def test_a_manifest_that_cannot_be_read_is_an_error(manifest, threads):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    campaign = Campaign(UNITS, write, manifest)
    campaign.run(threads)
    manifest.chmod(0)
    with pytest.raises(ManifestUnusable, match="cannot be read"):
        campaign.status()


def test_a_disk_that_is_full_loses_nothing(manifest, threads):
    def fill(unit, output):
        write(unit, output)
        if unit is UNITS[5]:
            limit = manifest.stat().st_size + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    campaign = Campaign(UNITS, fill, manifest)
    try:
        with pytest.raises(ManifestUnwritable, match="make room"):
            campaign.run(threads, in_flight=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert campaign.status().done == 5


@pytest.mark.parametrize("error", [None, BrokenProcessPool("one is gone")])
@pytest.mark.parametrize("in_flight", [3, 100])
def test_an_executor_that_breaks_loses_nothing(manifest, error, in_flight):
    campaign = Campaign(UNITS, write, manifest)
    with pytest.raises(ExecutorBroken, match="goes on from there"):
        campaign.run(Breaking(UNITS[6].key, error), in_flight=in_flight)
    assert campaign.status().done == 4
    with ThreadPoolExecutor(2) as threads:
        assert campaign.run(threads) == CampaignStatus(6, 4, 0)


def test_an_executor_that_is_closed_is_an_error(manifest):
    with pytest.raises(ExecutorBroken, match="cannot schedule"):
        Campaign(UNITS, write, manifest).run(Closed())


def test_what_breaks_executors_again_and_again_is_listed(manifest):
    campaign = Campaign(UNITS, write, manifest)
    poison = UNITS[6].key
    for num_held in 2, 0, 0:
        error = BrokenProcessPool("one is gone")
        with pytest.raises(ExecutorBroken, match="one is gone"):
            campaign.run(Breaking(poison, error, num_held))
    status = campaign.run(Breaking(None, None, 0))
    assert status.failed.keys() == {poison}
    assert status.done + status.skipped == len(UNITS) - 1
    assert "when the executor broke" in status.failed[poison].error


def test_an_executor_that_loses_a_unit_is_asked_again(manifest):
    class Losing(Breaking):
        def submit(self, function, task):
            future = Future()
            if task.attempt == 1:
                future.set_exception(OSError("the worker is gone"))
            else:
                flying.append(task.key)
                future.set_result(function(task))
            return future

    flying = []
    status = Campaign(UNITS, write, manifest).run(Losing(None))
    assert status.done == 10
    assert flying == [unit.key for unit in UNITS]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"run": 7}, "run=7 cannot be called"),
        ({"max_attempts": 0}, "max_attempts=0: give a whole number above 0"),
        ({"timeout": -1}, "timeout=-1: give"),
        ({"timeout": float("nan")}, "timeout=nan: give"),
        ({"sequences_per_unit": True}, "sequences_per_unit=True: give"),
        ({"units": ["manifest"], "suffix": ".jsonl"}, "the output of 'manif"),
        ({"suffix": "/x"}, "give another suffix"),
        ({"slots": 3}, "slots=3 of what"),
        ({"servers": "a:1"}, "servers= without slots="),
        ({"servers": [], "slots": 1}, "servers=\\[\\]: give at least one"),
        ({"servers": ["a:1", "a:1"], "slots": 1}, "one is given twice"),
        ({"servers": 7, "slots": 1}, "the server 7 is none"),
        ({"servers": "a:1", "slots": "4"}, "slots are '4'"),
        (
            {"servers": "a:1", "slots": 1, "sequences_per_unit": 2},
            "has 1 slots, and a unit streams 2",
        ),
    ],
)
def test_options_that_make_no_campaign_are_refused(manifest, options, reason):
    options = {"units": UNITS, "run": write, "manifest": manifest} | options
    with pytest.raises(InvalidCampaign, match=reason):
        Campaign(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"executor": "dask"}, "Dask's clients have get_executor"),
        ({"workers": 0}, "workers=0: give a whole"),
        ({"workers": 1.5}, "workers=1.5: give a whole"),
        ({"in_flight": -1}, "in_flight=-1"),
        ({"grace": 0}, "grace=0"),
        ({"progress": "much"}, "progress='much': give True"),
    ],
)
def test_options_of_a_run_that_cannot_be_are_refused(
    manifest, options, reason
):
    with pytest.raises(InvalidCampaign, match=reason):
        Campaign(UNITS, write, manifest).run(**options)
    assert not manifest.parent.exists()


def test_what_only_our_own_processes_can_do_is_refused(manifest, threads):
    with pytest.raises(InvalidCampaign, match="are for the campaign's own"):
        Campaign(UNITS, write, manifest).run(threads, workers=2)
    with pytest.raises(InvalidCampaign, match="are for the campaign's own"):
        Campaign(UNITS, write, manifest, timeout=3).run(threads)


def test_functions_that_cannot_be_sent_are_refused(manifest):
    def local(unit, output):
        """It has no name that another process could import."""

    with pytest.raises(InvalidCampaign, match="at the top level") as caught:
        Campaign(UNITS, local, manifest).run()
    assert caught.value.__notes__ == [f"it was the unit {UNITS[0].key!r}"]


def test_scripts_without_a_guard_are_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from hermes.stillwater.campaign import Campaign\n"
        "def run(unit, output): pass\n"
        "Campaign(['a'], run, 'manifest.jsonl').run(workers=1)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "InvalidCampaign: this process is a worker that" in done.stderr
    assert "WorkersUnusable: 3 workers in a row ended" in done.stderr
