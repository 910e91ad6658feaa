"""Engines and where they are to run: what lint finds of `model.plan.json`."""

import json
from pathlib import Path

import pytest

from hermes.quiver import Platform

FACTS = {
    "builder": "tensorrt",
    "builder_version": "10.11.0.33",
    "compute_capability": "8.0",
    "hardware_compatibility": "none",
}


@pytest.fixture
def write(repository):
    """Write what an export of a version would; gives the findings' rules."""
    folder = Path(repository.root) / "engine"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'platform: "{Platform.TENSORRT}"')

    def write(*versions: dict | str | None, **context) -> list[tuple]:
        for number, facts in enumerate(versions, 1):
            version = folder / str(number)
            version.mkdir(exist_ok=True)
            (version / "model.plan").write_bytes(b"engine")
            if facts is not None:
                text = json.dumps(facts) if isinstance(facts, dict) else facts
                (version / "model.plan.json").write_text(text)
        repository.refresh()
        return [(f.severity, f.rule) for f in repository.lint(**context)]

    return write


def test_an_engine_for_the_container_and_the_gpu_is_sound(write) -> None:
    assert write(FACTS) == []
    assert write(FACTS, container="25.06", gpu="A100") == []
    assert write(FACTS, container="25.06", gpu="8.0") == []


@pytest.mark.parametrize(
    ("change", "context", "expected"),
    [
        ({"builder": "tensorrt_rtx"}, {}, ("error", "rtx-engine")),
        ({}, {"container": "25.03"}, ("error", "tensorrt-version")),
        ({}, {"container": "29.01"}, ("warning", "unknown-release")),
        ({}, {"gpu": "h100"}, ("error", "compute-capability")),
        (
            {"compute_capability": None},
            {"gpu": "A100"},
            ("warning", "unknown-gpu"),
        ),
        (
            {"hardware_compatibility": "ampere_plus"},
            {"gpu": "T4"},
            ("error", "compute-capability"),
        ),
    ],
)
def test_what_will_not_run_is_found(write, change, context, expected) -> None:
    assert write(FACTS | change, **context) == [expected]


def test_an_engine_of_all_gpus_runs_on_all(write) -> None:
    facts = FACTS | {"hardware_compatibility": "ampere_plus"}
    assert write(facts, gpu="H100") == []


@pytest.mark.parametrize("facts", [None, "nonsense", "[]"])
@pytest.mark.parametrize("kind", ["platform", "backend"])
def test_an_engine_of_unknown_origin_is_found(
    write, repository, facts, kind
) -> None:
    if kind == "backend":
        path = Path(repository.root) / "engine" / "config.pbtxt"
        path.write_text('backend: "tensorrt"')
    assert write(facts, gpu="A100") == [("warning", "no-provenance")]


def test_only_versions_that_are_served_count(write, repository) -> None:
    rtx = FACTS | {"builder": "tensorrt_rtx"}
    assert write(rtx, FACTS) == []
    model = repository.models["engine"]
    for policy, expected in (
        ({"latest": 2}, 1),
        ({"specific": [1, 3]}, 1),
        ({"specific": [2]}, 0),
        ({}, 1),
    ):
        model.config.set_version_policy(**policy)
        assert len(repository.lint()) == expected
    (finding,) = repository.lint()
    assert finding.message.startswith("version 1: its engine was built by ten")
    assert "builder='tensorrt'" in finding.cure


def test_gpus_that_are_not_known_are_refused(repository) -> None:
    with pytest.raises(ValueError, match=r"gpu='A101' is none of .* '8\.0'"):
        repository.lint(gpu="A101")
