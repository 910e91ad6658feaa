"""Findings: each rule on a repository that breaks it, and on a sound one."""

from pathlib import Path

import numpy as np
import pytest

from hermes.quiver import ModelRepository, Platform


@pytest.fixture
def sound(repository, graph):
    """A repository with a stream of windows that are averaged."""
    network = repository.add("network", Platform.ONNX)
    network.export_version(graph({"x": ["b", 2, 24, 4]}, {"y": ["b", 2, 24]}))
    source = repository.add("source", Platform.ONNX)
    source.export_version(graph({"x": ["b", 24, 4]}, {"y": ["b", 24]}))
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(source.inputs["x"], 2, batch_size=4)
    ensemble.add_streaming_output(source.outputs["y"], 2, 4)
    ensemble.export_version(None)
    return repository


def rules(repository, **context) -> dict[str, str]:
    return {f.rule: f.model for f in repository.lint(**context)}


def test_what_quiver_exports_is_sound(sound) -> None:
    assert sound.lint(sample_rate=2048, container="25.06") == []
    again = ModelRepository(sound.root)
    assert again.lint(sample_rate=2048, container="25.06") == []


def test_states_that_would_be_swapped_are_found(sound) -> None:
    config = sound.models["network"].config
    config.add_state("a_in", "z_out", [2])
    config.add_state("b_in", "y_out", [2])
    (finding,) = sound.lint()
    assert (finding.severity, finding.rule) == ("error", "swapped-states")
    assert "would pair a_in with y_out, b_in with z_out" in str(finding)
    assert "so that both sort alike" in finding.cure


def test_states_without_a_beginning_are_found(sound) -> None:
    state = sound.models["network"].config.add_state("a", "b", [2], np.int64)
    del state.initial_state[:]
    assert rules(sound) == {"no-initial-state": "network"}


def test_a_step_with_fewer_slots_is_found(sound) -> None:
    sound.models["snapshotter"].config.scale_instance_group(3)
    (finding,) = sound.lint()
    assert finding.severity == "warning"
    assert (finding.rule, finding.model) == ("few-slots", "aggregator")
    assert "serves 1 sequences at a time" in finding.message
    batching = sound.models["aggregator"].config.sequence_batching
    batching.oldest.max_candidate_sequences = 3
    assert sound.lint() == []


@pytest.mark.parametrize(
    ("microseconds", "severities"),
    [(3_000_000, {"error"}), (7_000_000, {"warning"}), (9_000_000, set())],
)
def test_an_idle_time_below_the_update_interval_is_found(
    sound, microseconds, severities
) -> None:
    for name in ("snapshotter", "aggregator"):
        batching = sound.models[name].config.sequence_batching
        batching.max_sequence_idle_microseconds = microseconds
    # 8 samples per update, 2 per second: one every 4 seconds
    found = sound.lint(sample_rate=2)
    assert {f.severity for f in found} == severities
    assert sound.lint() == []


def test_models_that_may_overtake_are_found(sound) -> None:
    sound.models["source"].config.ClearField("dynamic_batching")
    assert rules(sound) == {"overtaking": "source"}


def test_a_container_without_the_backend_is_found(sound) -> None:
    sound.models["network"].config.platform = "tensorflow_savedmodel"
    assert rules(sound) == {}
    assert rules(sound, container="25.02") == {}
    assert rules(sound, container="25.03-py3") == {"no-tensorflow": "network"}


def test_tensors_that_do_not_fit_are_found(sound) -> None:
    sound.models["source"].config.input[0].dims[1] = 23
    (finding,) = sound.lint()
    assert finding.rule == "misfit"
    assert "but source/x takes float32[None, 23, 4]" in finding.message
    step = sound.models["ensemble"].config.ensemble_scheduling.step[1]
    step.output_map["ghost"] = "nowhere"
    assert any("no output 'ghost'" in f.message for f in sound.lint())


def test_a_graph_that_has_lost_a_model_is_found(sound) -> None:
    sound.remove("source")
    (finding,) = sound.lint()
    assert finding.rule == "broken-graph"
    assert "'source': the repository has no such model" in finding.message


def test_unreadable_and_empty_models_are_found(sound) -> None:
    path = Path(sound.root) / "network" / "config.pbtxt"
    path.write_text("nonsense {")
    sound.refresh()
    sound.add("later", Platform.ONNX)
    assert rules(sound) == {
        "unreadable-config": "network",
        "no-version": "later",
    }


@pytest.mark.parametrize(
    ("context", "match"),
    [
        ({"sample_rate": 0}, "sample_rate=0 is not positive"),
        ({"container": "latest"}, "no release such as '25.06'"),
    ],
)
def test_an_impossible_context_is_refused(sound, context, match) -> None:
    with pytest.raises(ValueError, match=match):
        sound.lint(**context)
