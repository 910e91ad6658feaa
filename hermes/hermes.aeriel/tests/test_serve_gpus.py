"""Which GPUs a server is given, and what it is seen to use."""

from pathlib import Path

import pytest

from hermes.aeriel.errors import GpuMismatch, InvalidServeOption
from hermes.aeriel.serve._gpus import (
    check_seen,
    count_on_host,
    uuids_on_host,
    visible_devices,
)

READY = "Started GRPCInferenceService at 127.0.0.1:8001\n"
UUIDS = {"0": "GPU-aaaa-1", "1": "GPU-bbbb-2", "2": "GPU-cccc-3"}
ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("gpus", "variables"),
    [
        (None, {}),
        ([], {"CUDA_VISIBLE_DEVICES": ""}),
        ([1, 0], {"CUDA_VISIBLE_DEVICES": "1,0", **ORDER}),
        (("2",), {"CUDA_VISIBLE_DEVICES": "2", **ORDER}),
        (["GPU-8f2c-1"], {"CUDA_VISIBLE_DEVICES": "GPU-8f2c-1"}),
        (["MIG-GPU-8f/1/0"], {"CUDA_VISIBLE_DEVICES": "MIG-GPU-8f/1/0"}),
    ],
)
def test_gpus_become_visible_devices(gpus, variables) -> None:
    assert visible_devices(gpus, {}) == variables


@pytest.mark.parametrize(
    ("shown", "gpus", "devices"),
    [
        ("3,5,7", [0, 2], "3,7"),
        ("GPU-a, GPU-b", [1], "GPU-b"),
        ("MIG-a", ["0"], "MIG-a"),
        ("3,5", ["GPU-x"], "GPU-x"),
        ("", [], ""),
    ],
)
def test_numbers_count_what_we_are_shown(shown, gpus, devices) -> None:
    found = visible_devices(gpus, {"CUDA_VISIBLE_DEVICES": shown})
    assert found == {"CUDA_VISIBLE_DEVICES": devices}


@pytest.mark.parametrize(
    ("shown", "told"),
    [("3", "1: 3"), ("", "0: none"), ("4,-1,5", "1: 4"), ("NoDevFiles", "0:")],
)
def test_what_we_are_not_shown_cannot_be_given(shown: str, told: str) -> None:
    with pytest.raises(InvalidServeOption, match=f"GPU 1, .* shows us {told}"):
        visible_devices([1], {"CUDA_VISIBLE_DEVICES": shown})


@pytest.mark.parametrize("gpus", ["0,1", [True], [0.5], [-1], ["all"], [None]])
def test_gpus_are_numbers_or_identifiers(gpus: object) -> None:
    with pytest.raises(InvalidServeOption, match=r"such as \[0, 1\]"):
        visible_devices(gpus, {})  # type: ignore[arg-type]


def test_no_gpu_is_given_twice() -> None:
    with pytest.raises(InvalidServeOption, match=r"twice: \[0, '0'\]"):
        visible_devices([0, "0"], {})


def test_gpus_of_this_machine_are_counted(tmp_path: Path) -> None:
    assert count_on_host(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_on_host(tmp_path) == 2


def write_smi(folder: Path, script: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(folder)


def test_the_driver_tells_identifiers(tmp_path: Path) -> None:
    path = write_smi(tmp_path, "echo '0, GPU-a'; echo '1, GPU-b'")
    assert uuids_on_host(path) == {"0": "GPU-a", "1": "GPU-b"}
    assert uuids_on_host(write_smi(tmp_path, "echo no devices >&2")) == {}
    (tmp_path / "nvidia-smi").write_text("#!/no/shell\n")
    assert uuids_on_host(path) == {}
    assert uuids_on_host(str(tmp_path / "gone")) == {}


def opened(*numbers: int) -> str:
    lines = [
        f"CUDA memory pool is created on device {n} with size 1\n"
        for n in numbers
    ]
    return "".join(lines) + READY


def measured(*uuids: str) -> str:
    return "".join(
        f'nv_gpu_utilization{{gpu_uuid="{uuid}"}} 0\n' for uuid in uuids
    )


@pytest.mark.parametrize(
    ("devices", "log", "metrics"),
    [
        ("", opened(), ""),
        ("2", opened(0), measured("GPU-cccc-3")),
        ("0,1", opened(0, 1), measured("GPU-aaaa-1", "GPU-bbbb-2")),
        ("0,1", opened(0, 1), ""),
        ("0", "", measured("GPU-aaaa-1")),
        ("GPU-bbbb", opened(0), measured("GPU-bbbb-2")),
        ("MIG-x", opened(0), measured("GPU-aaaa-1")),
        ("7", opened(0), measured("GPU-other")),  # a driver that is silent
        ("0", "a silent log", ""),
    ],
)
def test_a_server_may_see_what_it_was_given(devices, log, metrics) -> None:
    check_seen(devices, log, metrics, UUIDS)


@pytest.mark.parametrize(
    ("devices", "log", "metrics", "told"),
    [
        ("", opened(0), "", "given no GPU, but sees 1 GPU "),
        ("0", opened(), "", r"given 1 GPU \(0\), but sees no GPU; see its"),
        ("0,1", opened(0), "", r"2 GPUs \(0, 1\), but sees 1 GPU \(0\)"),
        ("1", opened(0), measured("GPU-aaaa-1"), "GPU-bbbb-2.*GPU-aaaa-1"),
    ],
)
def test_a_server_that_sees_others_is_an_error(
    devices, log, metrics, told
) -> None:
    with pytest.raises(GpuMismatch, match=told):
        check_seen(devices, log, metrics, UUIDS)
