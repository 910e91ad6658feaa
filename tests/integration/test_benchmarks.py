"""The benchmarks run, and their answers are right. How fast is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.torch, pytest.mark.slow]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RIVALS = {"tritonclient each", "tritonclient one"}
FLOORS = {"grpcio bytes", "own bytes"}


def run(directory: Path, name: str, *arguments: str) -> dict:
    file = directory / "figures.json"
    result = subprocess.run(
        [sys.executable, BENCHMARKS / name, "--json", file, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(file.read_text())


def test_all_clients_get_their_answers(tmp_path: Path) -> None:
    figures = run(
        tmp_path, "client_cost.py", "--rounds", "1", "--requests", "20"
    )
    assert {"client", "tritonclient"} < set(figures)
    for by_number in figures.values():
        assert all(len(values) == 1 for values in by_number.values())


def test_many_sequences_stream_what_the_network_computes(
    tmp_path: Path,
) -> None:
    figures = run(tmp_path, "stream_scaling.py", "--quick")
    assert figures["rounds"] == 1
    places = {
        (case["network"], case["num_sequences"], case["num_slots"])
        for case in figures["cases"]
    }
    assert places == {("probe", 2, 2), ("probe", 2, 1)}
    for case in figures["cases"]:
        assert set(case["contenders"]) == {"client", *RIVALS, *FLOORS}
        for name, row in case["contenders"].items():
            assert row["wrong"] == 0, name
            # The answers of a stream come in order: a sequence that waits
            # for its slot holds up the one that has it.
            may_hang = name == "tritonclient one" and case["num_slots"] == 1
            assert row["hangs"] <= may_hang, name
            count = case["num_sequences"] * case["num_updates"]
            assert row["checked"] == (0 if row["hangs"] else count)


def test_no_stream_of_ours_sees_another_one(tmp_path: Path) -> None:
    figures = run(tmp_path, "state_safety.py", "--quick")
    kinds = {"client", "tritonclient", "tritonclient random"}
    assert set(figures["kinds"]) == kinds
    ours = figures["kinds"]["client"]
    assert ours["checked"] == ours["right"] > 0
    assert ours["cross_stream"] == ours["wrong_window"] == ours["lost"] == 0
    assert ours["stuck"] == 0
    for counts in figures["kinds"].values():
        parts = "right", "cross_stream", "wrong_window"
        assert counts["checked"] == sum(counts[part] for part in parts)


def test_all_channels_deliver_every_frame(tmp_path: Path) -> None:
    figures = run(tmp_path, "channel_speed.py", "--quick")
    rivals = {"channel", "queue", "pipe", "torch queue", "memcpy"}
    assert [set(case["contenders"]) for case in figures["cases"]] == [
        rivals
    ] * 3


def test_a_pipeline_and_a_loop_get_the_same_bits(tmp_path: Path) -> None:
    figures = run(tmp_path, "pipeline_speed.py", "--quick")
    assert [case["wrong"] for case in figures["cases"]] == [0, 0]


def test_a_swarm_comes_in_the_rounds_of_one_machine(tmp_path: Path) -> None:
    cases = run(tmp_path, "swarm_calls.py", "--quick")["cases"]
    for way in ("up", "down"):
        assert cases["64"][way]["rounds"] <= cases["1"][way]["rounds"] + 2
    assert cases["64"]["up"]["calls"] == cases["1"]["up"]["calls"]
