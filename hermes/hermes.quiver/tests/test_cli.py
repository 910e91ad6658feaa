"""The command line, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hermes.quiver import Platform
from hermes.quiver.cli import main


@pytest.fixture
def root(repository, graph) -> str:
    network = repository.add("network", Platform.ONNX)
    network.export_version(graph({"x": ["b", 2, 16]}, {"y": ["b", 2]}))
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(network.inputs["x"], 8)
    ensemble.add_output(network.outputs["y"])
    ensemble.export_version(None)
    return repository.root


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_ls_lists_the_models(root, capsys) -> None:
    (Path(root) / "network" / "config.pbtxt").write_text("nonsense {")
    status, text, _ = run(capsys, "ls", root)
    assert status == 0
    lines = text.splitlines()
    assert lines[0].split() == ["ensemble", "ensemble", "1"]
    assert "config.pbtxt, line" in lines[1]
    rows = json.loads(run(capsys, "ls", root, "--json")[1])
    assert [row["name"] for row in rows] == [
        "ensemble",
        "network",
        "snapshotter",
    ]
    assert rows[0]["versions"] == [1]


def test_ls_of_nothing_says_so(tmp_path, capsys) -> None:
    assert run(capsys, "ls", str(tmp_path / "new"))[:2] == (
        0,
        f"no models in {tmp_path / 'new'}\n",
    )


def test_inspect_shows_tensors_states_and_graphs(root, capsys) -> None:
    status, text, _ = run(capsys, "inspect", root, "snapshotter")
    assert status == 0
    assert text == (
        "snapshotter (onnxruntime_onnx), versions: 1\n"
        "  input  snapshot_update float32[1, 2, 8]\n"
        "  output network.x_snapshot float32[1, 2, 16]\n"
        "  state  input_snapshot float32[1, 2, 16]\n"
    )
    text = run(capsys, "inspect", root, "ensemble")[1]
    assert "snapshotter --network.x_snapshot--> network" in text
    chart = run(capsys, "inspect", root, "ensemble", "--mermaid")[1]
    assert chart.startswith("flowchart LR\n")
    answer = json.loads(run(capsys, "inspect", root, "network", "--json")[1])
    assert answer["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [None, 2, 16]}
    ]
    status, _, error = run(capsys, "inspect", root, "other")
    assert status == 2
    assert "no model 'other'; there are: 'ensemble'" in error


def test_lint_fails_on_errors_only(root, repository, capsys) -> None:
    assert run(capsys, "lint", root)[:2] == (0, "nothing found\n")
    snapshotter = repository.models["snapshotter"]
    del snapshotter.config.sequence_batching.state[0].initial_state[:]
    snapshotter.write_config()
    status, text, _ = run(capsys, "lint", root)
    assert status == 1
    assert text.startswith("error: snapshotter: state 'input_snapshot' has no")
    found = json.loads(run(capsys, "lint", root, "--json")[1])
    assert [f["rule"] for f in found] == ["no-initial-state"]
    slow = run(capsys, "lint", root, "--sample-rate", "0.1", "--json")[1]
    assert {f["rule"] for f in json.loads(slow)} == {
        "no-initial-state",
        "short-idle-time",
    }
    assert run(capsys, "lint", root, "--container", "x")[0] == 2
    assert run(capsys, "lint", root, "--gpu", "x")[0] == 2


def test_verify_proves_a_stream(root, repository, capsys) -> None:
    status, text, _ = run(capsys, "verify", root, "ensemble")
    assert status == 0
    assert "equal to the last bit" in text
    report = json.loads(run(capsys, "verify", root, "ensemble", "--json")[1])
    assert report["is_equal"]
    assert report["outputs"][0]["num_different"] == 0
    assert run(capsys, "verify", root, "network")[0] == 2

    import onnx

    snapshotter = repository.models["snapshotter"]
    graph = onnx.load_from_string(snapshotter.read_version())
    graph.graph.node[0].input[:] = reversed(graph.graph.node[0].input)
    snapshotter.export_version(graph)
    status, text, _ = run(capsys, "verify", root, "ensemble")
    assert status == 1
    assert "differ, most at" in text


def test_storage_options_reach_the_storage(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["ls", str(tmp_path), "--storage-option", "nonsense"])
    assert "'nonsense' is not KEY=VALUE" in capsys.readouterr().err
    option = ["--storage-option", "skip_instance_cache=true"]
    assert run(capsys, "ls", "memory://cli-test", *option)[0] == 0


def test_the_command_is_installed(root) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hermes.quiver.cli", "ls", root],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "snapshotter" in result.stdout
