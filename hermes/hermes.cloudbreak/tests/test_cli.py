"""hermes-cloud, on a cloud in memory."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hermes.cloudbreak import _commands
from hermes.cloudbreak._planfile import read_plan, read_run
from hermes.cloudbreak._together import Together, make_clouds
from hermes.cloudbreak.clouds.google._accesses import Accesses
from hermes.cloudbreak.errors import CloudUnavailable, InvalidSpec, Refused
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Cause, Key, Kind, VMSpec
from hermes.cloudbreak.testing import FakeClock, FakeCloud, Fault

FILE = """
run = "night"
owner = "alice"
lifetime = "1h"
[[cluster]]
name = "inference"
zones = ["us-central1-a"]
[[node_pool]]
name = "cpus"
cluster = "inference"
[[vm]]
name = "reader"
zones = ["us-central1-a"]
"""


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {token: none}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
"""


class Setting:
    """A file, a cloud, and the command line in between."""

    def __init__(self, folder: Path) -> None:
        self.time = FakeClock()
        self.cloud = FakeCloud(self.time.clock)
        self.file = folder / "cloud.toml"
        self.file.write_text(FILE)

    def run(self, command: str, *words: str) -> int:
        return _commands.run(
            [command, str(self.file), *words],
            lambda _plan: dict.fromkeys(Kind, self.cloud),
            self.time.clock,
        )


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_plan_shows_and_need_not_ask_a_cloud(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    assert setting.run("plan", "--offline") == 0
    said = capsys.readouterr().out
    for each in ("create", "cluster inference", "VM reader", "us-central1-a"):
        assert each in said
    assert "run night of alice: may be deleted by anybody 1 h after" in said
    assert setting.cloud.calls == []


def test_up_status_down(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    assert setting.run("up", "--yes") == 0
    assert len(setting.cloud.resources) == 3
    said = capsys.readouterr()
    assert "waiting for VM reader" in said.err
    assert "up: 3 resources of run night" in said.out
    assert setting.run("up", "--yes") == 0  # and it is kept
    assert "keep" in capsys.readouterr().out
    assert setting.run("status") == 0
    said = capsys.readouterr().out
    assert "node pool cpus" in said
    assert "ready" in said
    assert setting.run("down", "--yes") == 0
    assert setting.cloud.resources == ()
    assert setting.run("down") == 0  # there is nothing to ask about


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["up", "down", "reap"])
def test_who_changes_anything_asks(
    setting: Setting,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if command != "up":
        setting.run("up", "--yes")
        setting.time.advance(3600)
    before = setting.cloud.resources
    for answers, code in ((Terminal("n\n"), 130), (io.StringIO("y\n"), 2)):
        monkeypatch.setattr("sys.stdin", answers)
        capsys.readouterr()
        assert setting.run(command) == code
        assert setting.cloud.resources == before
        said = capsys.readouterr()
        assert "VM reader" in said.out  # it is shown before
        assert ("no terminal: give --yes" in said.err) == (code == 2)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert setting.run(command) == 0
    assert setting.cloud.resources != before


def test_what_the_file_changes_is_shown_and_done(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.run("up", "--yes")
    more = 'cluster = "inference"\nnum_nodes = 4'
    changed = FILE.replace('cluster = "inference"', more)
    setting.file.write_text(changed)
    capsys.readouterr()
    setting.cloud.calls.clear()
    assert setting.run("plan") == 0
    assert "num_nodes 1 -> 4" in capsys.readouterr().out
    assert {verb for verb, _ in setting.cloud.calls} == {"observe"}
    assert setting.run("up", "--yes") == 0
    assert "change  node pool cpus" in capsys.readouterr().out
    (pool,) = [o for o in setting.cloud.observe() if o.key.name == "cpus"]
    assert pool.settings["num_nodes"] == 4


def test_what_cannot_be_changed_is_refused_before_anybody_is_asked(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.run("up", "--yes")
    setting.file.write_text(
        f'{FILE}image = "other"\n[[vm]]\nname = "new"\n'
        'zones = ["us-central1-a"]'
    )
    capsys.readouterr()
    assert setting.run("plan") == 0
    assert "refuse" in capsys.readouterr().out
    setting.cloud.calls.clear()
    assert setting.run("up") == 1
    assert {verb for verb, _ in setting.cloud.calls} == {"observe"}
    said = capsys.readouterr().err
    assert "nothing was touched, because some of it would have" in said
    assert "VM reader is there with other settings: image projects" in said
    assert "delete it first (`hermes-cloud down`)" in said


def test_what_is_used_though_it_is_not_ours_is_not_shown_as_new(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.cloud.add(VMSpec("reader", machine_type="small"))
    setting.time.advance(60)
    setting.file.write_text(
        f'{FILE}machine_type = "small"\nexists_ok = true\n'
    )
    assert setting.run("plan") == 0
    assert re.search("keep +VM reader", capsys.readouterr().out)
    assert setting.run("up", "--yes") == 0
    assert setting.run("down", "--yes") == 0
    assert setting.cloud.resources == (Key(Kind.VM, "reader"),)
    setting.file.write_text(
        f'{FILE}machine_type = "large"\nexists_ok = true\n'
    )
    assert setting.run("up", "--yes") == 1
    assert "not ours to be changed" in capsys.readouterr().err
    assert setting.cloud.resources == (Key(Kind.VM, "reader"),)


@pytest.mark.parametrize("table", ["google", "kubernetes"])
def test_an_empty_table_names_a_cloud_too(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is removed from a file would never be deleted."""
    key = make_key_file(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    clouds = make_clouds(read_plan({"run": "night", table: {}}))
    kinds = {Kind.DEPLOYMENT}
    assert set(clouds) == (set(Kind) - kinds if table == "google" else kinds)
    Together(clouds).close()


def test_up_that_fails_leaves_nothing(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.cloud.troubles["reader"] = (Cause.QUOTA, "CPUS: 0 left of 8")
    assert setting.run("up", "--yes") == 1
    assert "CPUS: 0 left of 8" in capsys.readouterr().err
    assert setting.cloud.resources == ()


def test_what_the_file_has_no_more_goes(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.run("up", "--yes")
    setting.file.write_text(FILE.replace('"reader"', '"writer"'))
    assert setting.run("up", "--yes") == 0
    assert "delete" in capsys.readouterr().out
    assert Key(Kind.VM, "writer") in setting.cloud.resources
    assert Key(Kind.VM, "reader") not in setting.cloud.resources


def test_another_run_is_left_alone(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.cloud.create(VMSpec("other"), Stamp("alice", "day", 2**31))
    setting.run("up", "--yes")
    setting.run("down", "--yes")
    assert setting.cloud.resources == (Key(Kind.VM, "other"),)
    capsys.readouterr()
    setting.run("status")
    assert "other" not in capsys.readouterr().out
    setting.run("status", "--all")
    assert "other" in capsys.readouterr().out


def test_reap_deletes_what_is_too_old_and_tells_before(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.run("up", "--yes")
    setting.time.advance(1800)
    assert setting.run("reap") == 0
    assert len(setting.cloud.resources) == 3
    assert setting.run("reap", "--older-than", "30m", "--dry-run") == 0
    assert "would delete VM reader" in capsys.readouterr().out
    assert len(setting.cloud.resources) == 3
    old = ("--older-than", "1s", "--yes")
    assert setting.run("reap", "--owner", "bob", *old) == 0
    assert len(setting.cloud.resources) == 3
    setting.time.advance(1800)
    assert setting.run("reap", "--yes") == 0
    assert "deleted cluster inference" in capsys.readouterr().out
    assert setting.cloud.resources == ()


def test_reap_leaves_what_others_have_unless_it_is_told(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.cloud.create(VMSpec("bobs"), Stamp("bob", "day", 2**31))
    setting.time.advance(1800)
    old = ("--older-than", "1m", "--yes")
    assert setting.run("reap", *old) == 0
    assert "0 resources of alice" in capsys.readouterr().out
    assert setting.cloud.resources == (Key(Kind.VM, "bobs"),)
    assert setting.run("reap", "--owner", "bob", "--all-owners", *old) == 1
    assert "give one of them" in capsys.readouterr().err
    assert setting.run("reap", "--all-owners", *old) == 0
    assert "1 resources of everybody" in capsys.readouterr().out
    assert setting.cloud.resources == ()


# What somebody may have written into a file before its run is looked for.
TROUBLES = [
    ('image = "a"\nimagee = "b"', "[[vm]] reader knows no imagee: did you"),
    ("num_vms = 0", "num_vms=0 of reader: give a number from 1"),
    ("[[node_pools]]\nname = 'a'", "the file knows no node_pools: did you m"),
    ("[[cluster]]\nzones = []", "[[cluster]] has no name"),
    ("[[vm]]\nname = 'reader'\nzones = ['us-central1-a']", "is there twice"),
]


@pytest.mark.parametrize(("text", "message"), TROUBLES)
def test_what_is_wrong_in_a_resource_does_not_keep_what_costs_money(
    setting: Setting, text: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert setting.run("up", "--yes") == 0
    setting.file.write_text(f"{FILE}{text}")
    for command in ("plan", "up"):
        capsys.readouterr()
        assert setting.run(command) == 1
        assert message in capsys.readouterr().err
    for words in (["status"], ["logs"], ["reap", "--dry-run"]):
        capsys.readouterr()
        assert setting.run(*words) == 0
        said = capsys.readouterr()
        (line,) = [each for each in said.err.splitlines() if message in each]
        assert line.startswith(f"hermes-cloud: {setting.file}: ")
        assert line.endswith("(not needed here; `up` would refuse it)")
    assert setting.run("down", "--yes") == 0
    assert "down: 3 resources of run night" in capsys.readouterr().out
    assert setting.cloud.resources == ()


@pytest.mark.parametrize("wrong", ['lifetime = "1 hour"', 'timeout = "0s"'])
def test_what_is_there_is_found_without_its_durations(
    setting: Setting, wrong: str
) -> None:
    setting.run("up", "--yes")
    text = setting.file.read_text().replace('lifetime = "1h"', wrong)
    setting.file.write_text(text)
    assert setting.run("up", "--yes") == 1
    assert setting.run("down", "--yes") == 0
    assert setting.cloud.resources == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('onwer = "bob"', "the file knows no onwer: did you mean owner?"),
        ("[gogle]", "the file knows no gogle: did you mean google?"),
        ("[google]\nprojekt = 'a'", "[google] knows no projekt"),
    ],
)
@pytest.mark.parametrize("command", ["down", "status", "reap"])
def test_what_says_whose_run_it_is_and_where_has_to_be_right(
    setting: Setting,
    command: str,
    text: str,
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    setting.file.write_text(f'run = "night"\n{text}\n')
    assert setting.run(command) == 1
    assert message in capsys.readouterr().err
    assert setting.cloud.calls == []


def test_a_table_that_cannot_be_read_names_its_cloud_all_the_same() -> None:
    content = {"run": "night", "vm": [{"nmae": "a"}], "triton": [{}]}
    assert read_run(content).kinds == {Kind.VM, Kind.DEPLOYMENT}


@pytest.mark.parametrize("command", ["down", "reap"])
def test_a_cloud_that_does_not_answer_keeps_nothing_of_the_others(
    setting: Setting, command: str, capsys: pytest.CaptureFixture
) -> None:
    assert setting.run("up", "--yes") == 0
    setting.time.advance(2 * 3600)
    silent = FakeCloud(setting.time.clock)
    error = CloudUnavailable("Kubernetes is out of reach")
    silent.faults = dict.fromkeys(range(1, 99), Fault(error))
    clouds = {
        **dict.fromkeys(Kind, setting.cloud),
        Kind.DEPLOYMENT: silent,
    }
    words = [command, str(setting.file), "--yes"]
    code = _commands.run(words, lambda _: clouds, setting.time.clock)
    said = capsys.readouterr()
    assert code == 1
    assert "This is not all: Kubernetes is out of reach" in said.out
    assert "hermes-cloud: Kubernetes is out of reach" in said.err
    assert setting.cloud.resources == ()


def test_one_that_cannot_be_emptied_keeps_nothing_of_the_others(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    vms = FakeCloud(setting.time.clock)
    clouds = {**dict.fromkeys(Kind, setting.cloud), Kind.VM: vms}

    def run(command: str) -> int:
        words = [command, str(setting.file), "--yes"]
        return _commands.run(words, lambda _: clouds, setting.time.clock)

    def forbid(_key: Key) -> None:
        raise Refused("403")

    assert run("up") == 0
    vms.delete = forbid
    assert run("down") == 1
    assert "VM reader (ready; 403)" in capsys.readouterr().err
    assert setting.cloud.resources == ()
    setting.cloud.delete = forbid
    assert run("up") == 0
    assert run("down") == 1
    said = capsys.readouterr().err
    assert "VM reader (ready; 403)" in said
    assert "cluster inference (ready; 403)" in said


def test_deployments_go_before_the_clusters_that_they_are_in() -> None:
    inside, machines, clusters = (FakeCloud(FakeClock().clock) for _ in "123")
    together = Together(
        {
            Kind.CLUSTER: clusters,
            Kind.NODE_POOL: clusters,
            Kind.VM: machines,
            Kind.DEPLOYMENT: inside,
        }
    )
    found = [each._each() for each in together.apart()]
    assert found == [[inside], [machines], [clusters]]


def test_logs_say_where_there_are_none(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    assert setting.run("logs") == 1
    assert "nothing is there of run night" in capsys.readouterr().err
    setting.run("up", "--yes")
    assert setting.run("logs") == 0
    assert "no logs are kept of a VM" in capsys.readouterr().out
    assert setting.run("logs", "--name", "reader") == 1
    assert setting.run("logs", "--name", "none") == 1
    assert "is called 'none'" in capsys.readouterr().err


def test_wrong_files_and_words_are_said(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.file.write_text("run = ")
    assert setting.run("plan") == 1
    assert "is no TOML" in capsys.readouterr().err
    setting.file.write_text("rum = 1")
    assert setting.run("plan") == 1
    said = capsys.readouterr().err
    assert f"{setting.file}: the file knows no rum: did you mean run?" in said
    setting.file.unlink()
    assert setting.run("plan") == 1
    assert "there is no file" in capsys.readouterr().err
    assert setting.run("plan", "--what") == 2
    assert setting.run("destroy") == 2
    setting.file.write_text(FILE)
    assert setting.run("reap", "--older-than", "long") == 1
    assert "'long' is no duration" in capsys.readouterr().err


def test_a_file_without_a_cloud_is_refused(
    setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    setting.file.write_text('run = "a"')
    assert _commands.run(["status", str(setting.file)]) == 1
    assert "names no cloud: write [google]" in capsys.readouterr().err


def test_a_kind_without_a_cloud_is_refused() -> None:
    cloud = FakeCloud(FakeClock().clock)
    together = Together({Kind.VM: cloud})
    with pytest.raises(InvalidSpec, match="no cloud is given that has a clu"):
        together.find(Key(Kind.CLUSTER, "a"))
    assert together.find(Key(Kind.VM, "a")) is None


def make_key_file(folder: Path) -> Path:
    """A key of Google's form, of nobody."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    content = {
        "type": "service_account",
        "project_id": "of-the-key",
        "client_email": "nobody@nowhere",
        "private_key": key.decode(),
        "token_uri": "http://127.0.0.1:9/token",
    }
    path = folder / "key.json"
    path.write_text(json.dumps(content))
    return path


def test_the_clouds_of_a_file_are_reached_as_it_says(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    content = {
        "run": "night",
        "google": {"credentials": str(make_key_file(tmp_path))},
        "kubernetes": {"kubeconfig": str(kubeconfig), "namespace": "mine"},
    }
    clouds = make_clouds(read_plan(content))
    assert set(clouds) == set(Kind)
    assert clouds[Kind.CLUSTER] is clouds[Kind.NODE_POOL]
    # Pools of GPUs are up when their drivers are.
    assert isinstance(clouds[Kind.NODE_POOL]._nodes, Accesses)
    assert "project of-the-key" in repr(clouds[Kind.VM])
    del content["google"]
    few = make_clouds(read_plan(content))
    assert set(few) == {Kind.DEPLOYMENT}
    for each in (clouds, few):
        Together(each).close()


MAIN = "from hermes.cloudbreak._cli import main; sys.exit(main(['plan']))"
VMS = "from hermes.cloudbreak.clouds.google import ComputeCloud"


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("typer", MAIN, "needs typer; install hermes-cloudbreak with its ext"),
        ("paramiko", "import hermes.cloudbreak.ssh", "needs the extra `ssh`"),
        ("googleapiclient.discovery", VMS, "Engine needs the extra `gcp` of"),
    ],
)
def test_without_an_extra_it_says_which(
    missing: str, code: str, message: str
) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; {code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode
    assert message in done.stderr
