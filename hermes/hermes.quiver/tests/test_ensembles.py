"""Ensembles: what the graph becomes, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from hermes.quiver import ExposedTensor, ModelRepository, Platform
from hermes.quiver.errors import (
    DtypeMismatch,
    EnsembleError,
    ModelExists,
    ShapeMismatch,
    UnsupportedExport,
    VersionExists,
)


@pytest.fixture
def add(repository, graph):
    """Adds a model that averages over the last axis of its inputs."""

    def _add(name, shape=("b", 2, 16), inputs=("x",), dtype=TensorProto.FLOAT):
        shape = list(shape)
        model = repository.add(name, Platform.ONNX)
        model.export_version(
            graph(
                dict.fromkeys(inputs, shape),
                {f"mean_{i}": shape[:-1] for i in inputs},
                dtype,
            )
        )
        return model

    return _add


@pytest.fixture
def ensemble(repository):
    return repository.add("ensemble", Platform.ENSEMBLE)


def steps(ensemble) -> dict:
    return {
        step.model_name: (dict(step.input_map), dict(step.output_map))
        for step in ensemble.config.ensemble_scheduling.step
    }


def stream(ensemble) -> dict:
    return json.loads(ensemble.config.parameters["hermes.stream"].string_value)


def test_models_are_joined_by_named_tensors(ensemble, add) -> None:
    first, second = add("first"), add("second", ("b", 2))
    ensemble.add_input(first.inputs["x"], key="strain")
    ensemble.pipe(first.outputs["mean_x"], second.inputs["x"])
    ensemble.add_output(second.outputs["mean_x"], key="prediction")
    path = ensemble.export_version(None)

    assert path.endswith("ensemble/1/model.empty")
    assert steps(ensemble) == {
        "first": ({"x": "strain"}, {"mean_x": "first.mean_x"}),
        "second": ({"x": "first.mean_x"}, {"mean_x": "prediction"}),
    }
    assert ensemble.inputs["strain"].shape == (None, 2, 16)
    assert ensemble.outputs["prediction"].shape == (None,)


def test_keys_may_come_in_any_order(ensemble, add) -> None:
    first, second, third = add("a"), add("b", ("b", 2)), add("c", ("b", 2))
    ensemble.add_input(first.inputs["x"])
    ensemble.pipe(first.outputs["mean_x"], second.inputs["x"])
    ensemble.pipe(first.outputs["mean_x"], third.inputs["x"], key="mean")
    ensemble.add_output(first.outputs["mean_x"], key="both")
    assert steps(ensemble)["a"][1] == {"mean_x": "both"}
    assert steps(ensemble)["b"][0] == steps(ensemble)["c"][0] == {"x": "both"}


def test_one_input_can_feed_several_models(ensemble, add) -> None:
    first, second = add("first"), add("second")
    ensemble.add_input(first.inputs["x"], key="strain")
    ensemble.add_input(second.inputs["x"], key="strain")
    assert list(ensemble.inputs) == ["strain"]
    wrong = add("wrong", ("b", 3, 16))
    with pytest.raises(
        ShapeMismatch, match=r"strain of shape \(None, 2, 16\)"
    ):
        ensemble.add_input(wrong.inputs["x"], key="strain")


def test_equal_output_names_stay_distinct(ensemble, add) -> None:
    models = [add("a"), add("b")]
    sinks = [add("c", ("b", 2)), add("d", ("b", 2))]
    for model, sink in zip(models, sinks, strict=True):
        ensemble.add_input(model.inputs["x"], key=f"in_{model.name}")
        ensemble.pipe(model.outputs["mean_x"], sink.inputs["x"])
        ensemble.add_output(sink.outputs["mean_x"], key=f"out_{model.name}")
    ensemble.export_version(None)
    assert steps(ensemble)["c"][0] == {"x": "a.mean_x"}
    assert steps(ensemble)["d"][0] == {"x": "b.mean_x"}


def test_versions_are_recorded(ensemble, add) -> None:
    model = add("a")
    ensemble.add_input(model.inputs["x"], version=1)
    ensemble.add_output(model.outputs["mean_x"])
    assert ensemble.config.ensemble_scheduling.step[0].model_version == 1
    with pytest.raises(EnsembleError, match="cannot run version 2"):
        ensemble.add_output(model.outputs["mean_x"], version=2, key="other")


def test_a_reopened_ensemble_can_be_extended(ensemble, add) -> None:
    model, sink = add("a"), add("b", ("b", 2))
    ensemble.add_input(model.inputs["x"])
    ensemble.add_output(model.outputs["mean_x"])
    ensemble.export_version(None)
    del sink

    models = ModelRepository(ensemble.repository.root).models
    again = models["ensemble"]
    again.pipe(models["a"].outputs["mean_x"], models["b"].inputs["x"])
    again.add_output(models["b"].outputs["mean_x"], key="more")
    again.export_version(None)
    assert list(again.outputs) == ["mean_x", "more"]
    assert again.versions == [1, 2]
    with pytest.raises(VersionExists):
        again.export_version(None, version=2)


def test_tensors_that_do_not_fit_are_refused(ensemble, add) -> None:
    first, second = add("first"), add("second")
    with pytest.raises(
        ShapeMismatch, match=r"first/mean_x of shape \(None, 2\)"
    ):
        ensemble.pipe(first.outputs["mean_x"], second.inputs["x"])
    double = add("double", ("b", 2), dtype=TensorProto.DOUBLE)
    with pytest.raises(
        DtypeMismatch, match="is float32 but double/x is float"
    ):
        ensemble.pipe(first.outputs["mean_x"], double.inputs["x"])
    assert not ensemble.config.ensemble_scheduling.step


def test_tensors_of_strangers_are_refused(ensemble, add, tmp_path) -> None:
    model = add("a")
    stranger = ExposedTensor(model, "z", (None, 2), np.dtype(np.float32))
    with pytest.raises(
        EnsembleError, match=r"a/z is no input .* inputs \['x'"
    ):
        ensemble.add_input(stranger)
    with pytest.raises(EnsembleError, match="a/x is no output"):
        ensemble.add_output(model.inputs["x"])
    with pytest.raises(EnsembleError, match=r"'x' is no tensor; .*inputs\["):
        ensemble.add_streaming_inputs("x", 4)
    with pytest.raises(EnsembleError, match=r"'x' is no tensor; .*outputs\["):
        ensemble.add_output("x")
    other = ModelRepository(tmp_path / "other").add("e", Platform.ENSEMBLE)
    with pytest.raises(EnsembleError, match="is no input of a model of"):
        other.add_input(model.inputs["x"])


def test_an_input_is_fed_once(ensemble, add) -> None:
    model, sink = add("a"), add("b", ("b", 2))
    ensemble.add_input(model.inputs["x"])
    with pytest.raises(EnsembleError, match=r"fed by 'x' already; .* once"):
        ensemble.add_input(model.inputs["x"], key="y")
    with pytest.raises(EnsembleError, match="has an input 'x' already"):
        ensemble.add_input(sink.inputs["x"])
    ensemble.pipe(model.outputs["mean_x"], sink.inputs["x"])
    with pytest.raises(EnsembleError, match=r"fed by 'a\.mean_x' already"):
        ensemble.pipe(model.outputs["mean_x"], sink.inputs["x"])


def test_names_are_given_once(ensemble, add) -> None:
    model, other = add("a"), add("b")
    ensemble.add_input(model.inputs["x"])
    ensemble.add_output(model.outputs["mean_x"], key="y")
    with pytest.raises(EnsembleError, match="has a tensor 'y' already"):
        ensemble.add_output(other.outputs["mean_x"], key="y")
    with pytest.raises(
        EnsembleError, match="the ensemble's output 'y' already"
    ):
        ensemble.add_output(model.outputs["mean_x"], key="z")
    sink = add("c", ("b", 2))
    with pytest.raises(EnsembleError, match="is named 'y' already"):
        ensemble.pipe(model.outputs["mean_x"], sink.inputs["x"], key="z")
    with pytest.raises(
        EnsembleError, match="has a tensor 'y' already; give an"
    ):
        ensemble.pipe(other.outputs["mean_x"], sink.inputs["x"], key="y")


def test_incomplete_ensembles_are_not_exported(
    ensemble, add, repository
) -> None:
    with pytest.raises(EnsembleError, match="has 0 inputs and 0 outputs"):
        ensemble.export_version(None)
    model = add("a", inputs=("x", "z"))
    ensemble.add_input(model.inputs["x"])
    ensemble.add_output(model.outputs["mean_x"])
    with pytest.raises(EnsembleError, match=r"step 'a': nothing feeds .*'z'"):
        ensemble.export_version(None)
    dead = add("b", ("b", 2))
    ensemble.add_input(model.inputs["z"])
    ensemble.pipe(model.outputs["mean_x"], dead.inputs["x"])
    with pytest.raises(EnsembleError, match="'b': no output"):
        ensemble.export_version(None)
    ensemble.add_output(dead.outputs["mean_x"], version=3, key="dead")
    with pytest.raises(EnsembleError, match="'b': version 3 must be exported"):
        ensemble.export_version(None)
    repository.remove("a")
    with pytest.raises(EnsembleError, match="'a': the repository has no such"):
        ensemble.export_version(None)
    assert ensemble.versions == []


def test_an_ensemble_has_no_network(ensemble) -> None:
    with pytest.raises(
        UnsupportedExport, match=r"call export_version\(None\)"
    ):
        ensemble.export_version(object())
    with pytest.raises(UnsupportedExport):
        ensemble.export_version(None, input_shapes=[(1, 2)])


def test_streaming_inputs_add_a_snapshotter(ensemble, add, repository) -> None:
    model = add("mean", inputs=("strain", "witness"))
    flat = add("flat", ("b", 16))
    update = ensemble.add_streaming_inputs(
        [model.inputs["strain"], flat.inputs["x"], model.inputs["witness"]],
        stream_size=6,
        batch_size=3,
        streams_per_gpu=4,
    )
    for name in "strain", "witness":
        ensemble.add_output(model.outputs[f"mean_{name}"])
    ensemble.add_output(flat.outputs["mean_x"], key="flat")
    ensemble.export_version(None)

    assert (update.name, update.shape) == ("snapshot_update", (1, 5, 18))
    snapshotter = repository.models["snapshotter"]
    assert {n: t.shape for n, t in snapshotter.outputs.items()} == {
        "mean.strain_snapshot": (3, 2, 16),
        "flat.x_snapshot": (3, 16),
        "mean.witness_snapshot": (3, 2, 16),
    }
    config = snapshotter.config
    assert config.instance_group[0].count == 4
    assert config.sequence_batching.HasField("direct")
    (state,) = config.sequence_batching.state
    assert list(state.dims) == [1, 5, 16]
    assert state.initial_state[0].zero_data
    assert ensemble.config.parameters["states"].string_value == (
        "mean/strain,flat/x,mean/witness"
    )
    assert stream(ensemble) == {
        "version": 1,
        "inputs": [
            {
                "name": "snapshot_update",
                "tensors": [
                    {"name": "mean/strain", "channels": 2},
                    {"name": "flat/x", "channels": None},
                    {"name": "mean/witness", "channels": 2},
                ],
                "stride_size": 6,
                "update_size": 18,
                "snapshot_size": 16,
                "batch_size": 3,
                "num_warmup": 2,
            }
        ],
        "outputs": [
            {"name": name, "num_warmup": 2, "size": 3}
            for name in ("mean_strain", "mean_witness", "flat")
        ],
        "replay_updates": 1,
    }


def test_only_outputs_that_depend_on_the_stream_have_a_warmup(
    ensemble, add
) -> None:
    streamed, plain = add("streamed"), add("plain")
    ensemble.add_streaming_inputs(streamed.inputs["x"], 8)
    ensemble.add_input(plain.inputs["x"])
    ensemble.add_output(streamed.outputs["mean_x"], key="a")
    ensemble.add_output(plain.outputs["mean_x"], key="b")
    ensemble.export_version(None)
    assert [output["name"] for output in stream(ensemble)["outputs"]] == ["a"]


def test_unknown_memory_allows_no_replay(ensemble, add) -> None:
    model = add("a")
    model.config.sequence_batching.direct.SetInParent()
    ensemble.add_streaming_inputs(model.inputs["x"], 8)
    ensemble.add_output(model.outputs["mean_x"])
    ensemble.export_version(None)
    assert stream(ensemble)["replay_updates"] is None


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "match"),
    [
        (
            ("b", 2, 16),
            {"stream_size": 17},
            ShapeMismatch,
            r"stream_size=17 does not fit .* a/x of 16 samples.* 1 to 16",
        ),
        (("b", 2, 16), {"stream_size": 0}, ShapeMismatch, "stream_size=0"),
        (
            ("b", 2, 16),
            {"stream_size": 2048 / 512},
            ShapeMismatch,
            r"stream_size=4\.0 is no whole number; divide with //",
        ),
        (
            ("b", 2, 16),
            {"stream_size": 4, "batch_size": "2"},
            ShapeMismatch,
            "batch_size='2' is no whole number",
        ),
        (
            (4, 2, 16),
            {"stream_size": 4, "batch_size": 2},
            ShapeMismatch,
            "takes batches of 4 but batch_size=2",
        ),
        (("b", 2, "t"), {"stream_size": 4}, ShapeMismatch, "fixed channels"),
        (("b", 2, 3, 16), {"stream_size": 4}, ShapeMismatch, "fixed channels"),
    ],
)
def test_streams_that_cannot_be_are_refused(
    ensemble, add, repository, shape, arguments, error, match
) -> None:
    model = add("a", shape)
    before = str(ensemble.config)
    with pytest.raises(error, match=match):
        ensemble.add_streaming_inputs(model.inputs["x"], **arguments)
    assert list(repository.models) == ["ensemble", "a"]
    assert str(ensemble.config) == before


def test_inputs_of_one_stream_must_agree(ensemble, add, repository) -> None:
    long, short = add("long"), add("short", ("b", 2, 8))
    double = add("double", dtype=TensorProto.DOUBLE)
    with pytest.raises(
        ShapeMismatch, match=r"kernel sizes .*long/x: 16, short"
    ):
        ensemble.add_streaming_inputs([long.inputs["x"], short.inputs["x"]], 4)
    with pytest.raises(DtypeMismatch, match=r"dtypes .*double/x: float64"):
        ensemble.add_streaming_inputs(
            [long.inputs["x"], double.inputs["x"]], 4
        )
    with pytest.raises(EnsembleError, match="once, and at least one"):
        ensemble.add_streaming_inputs([long.inputs["x"]] * 2, 4)
    with pytest.raises(EnsembleError, match="once, and at least one"):
        ensemble.add_streaming_inputs([], 4)
    assert "snapshotter" not in repository.models


def test_a_second_snapshotter_needs_a_name(ensemble, add, repository) -> None:
    model = add("a")
    ensemble.add_streaming_inputs(model.inputs["x"], 4)
    other = repository.add("other", Platform.ENSEMBLE)
    advice = r"'snapshotter' already; give .* name=.*remove\('snapshotter'\)"
    with pytest.raises(ModelExists, match=advice) as caught:
        other.add_streaming_inputs(model.inputs["x"], 4)
    assert "force" not in str(caught.value)
    other.add_streaming_inputs(model.inputs["x"], 4, name="snapshotter-2")
    assert "snapshotter-2" in repository.models


def test_a_second_averager_needs_a_name(ensemble, repository) -> None:
    repository.add("aggregator", Platform.ONNX)
    window = repository.add("window", Platform.ONNX)
    window.config.add_output("y", (4, 1, 8), np.float32)
    with pytest.raises(ShapeMismatch, match=r"update_size=2\.0 is no whole"):
        ensemble.add_streaming_output(window.outputs["y"], 4 / 2, 2)
    with pytest.raises(ModelExists, match=r"'aggregator' already; .* name="):
        ensemble.add_streaming_output(window.outputs["y"], 2, 2)


def test_one_model_can_run_in_several_steps(ensemble, add) -> None:
    model = add("a", ("b", 2, 16))
    again = ensemble.add_step(model)  # the model's first step ...
    third = ensemble.add_step("a", version=1)  # ... and its second
    ensemble.add_input(again.inputs["x"], key="left")
    ensemble.add_input(third.inputs["x"], key="right")
    ensemble.add_output(model.outputs["mean_x"], key="a")
    ensemble.add_output(third.outputs["mean_x"], key="b")
    ensemble.export_version(None)
    found = [
        (step.model_version, dict(step.input_map), dict(step.output_map))
        for step in ensemble.config.ensemble_scheduling.step
    ]
    assert found == [
        (-1, {"x": "left"}, {"mean_x": "a"}),
        (1, {"x": "right"}, {"mean_x": "b"}),
    ]
    assert str(third.inputs["x"]) == "a#2/x"
    with pytest.raises(EnsembleError, match="has no such model 'z'"):
        ensemble.add_step("z")
    stranger = replace(third.inputs["x"], step=5)
    with pytest.raises(EnsembleError, match="a#6/x belongs to a step that"):
        ensemble.add_input(stranger, key="more")


def test_steps_that_wait_for_each_other_are_refused(ensemble, add) -> None:
    first = add("a", ("b", 2, 2), inputs=("x", "y"))
    second = add("b", ("b", 2), inputs=("x",))
    add("c", ("b", 2), inputs=("x",))
    ensemble.add_input(first.inputs["x"])
    steps = ensemble.config.ensemble_scheduling.step
    steps[0].input_map["y"] = "c.mean_x"
    ensemble.pipe(first.outputs["mean_x"], second.inputs["x"])
    ensemble.add_output(second.outputs["mean_x"], key="out")
    with pytest.raises(
        EnsembleError, match=r"'a': nothing produces 'c\.mean_x"
    ):
        ensemble.export_version(None)
    circle = steps.add(model_name="c", model_version=-1)
    circle.input_map["x"] = "a.mean_y"
    circle.output_map["mean_x"] = "c.mean_x"
    steps[0].output_map["mean_y"] = "a.mean_y"
    with pytest.raises(EnsembleError, match="wait for each other in a circle"):
        ensemble.export_version(None)


def test_what_no_output_needs_is_refused(ensemble, add) -> None:
    model = add("a")
    ensemble.add_input(model.inputs["x"])
    ensemble.add_output(model.outputs["mean_x"])
    ensemble.config.add_input("spare", [1])
    with pytest.raises(EnsembleError, match=r"depends on its inputs \['spare"):
        ensemble.export_version(None)
    del ensemble.config.input[1]
    ensemble.config.add_output("ghost", [1])
    with pytest.raises(
        EnsembleError, match=r"the ensemble's outputs \['ghost"
    ):
        ensemble.export_version(None)


def test_the_graph_can_be_read(ensemble, add) -> None:
    first, second = add("first"), add("second", ("b", 2))
    ensemble.add_input(first.inputs["x"], key="strain")
    ensemble.pipe(first.outputs["mean_x"], second.inputs["x"])
    ensemble.add_output(second.outputs["mean_x"], key="score")
    assert str(ensemble) == (
        "ensemble ensemble\n"
        "  (input) --strain--> first\n"
        "  first --first.mean_x--> second\n"
        "  second --score--> (output)"
    )
    assert ensemble.to_mermaid() == (
        "flowchart LR\n"
        '    s0["first"]\n'
        '    s1["second"]\n'
        '    in0(["strain"]) --> s0\n'
        '    s0 -- "first.mean_x" --> s1\n'
        '    s1 --> out2(["score"])'
    )


def test_an_ensemble_can_have_several_streams(ensemble, add) -> None:
    fast, slow = add("fast"), add("slow", ("b", 1, 64))
    first = ensemble.add_streaming_inputs(fast.inputs["x"], 4, batch_size=2)
    second = ensemble.add_streaming_inputs(
        slow.inputs["x"], 8, batch_size=2, name="slow-snapshotter"
    )
    ensemble.add_output(fast.outputs["mean_x"], key="a")
    ensemble.add_output(slow.outputs["mean_x"], key="b")
    ensemble.export_version(None)
    assert first.name == "snapshot_update"
    assert second.name == "slow-snapshotter.snapshot_update"
    found = stream(ensemble)
    assert [entry["name"] for entry in found["inputs"]] == [
        first.name,
        second.name,
    ]
    assert [o["num_warmup"] for o in found["outputs"]] == [3, 7]
    assert found["replay_updates"] == 4


def test_averages_count_samples_and_remember_longer(ensemble, add) -> None:
    window = add("window", ("b", 24, 4))
    ensemble.add_streaming_inputs(window.inputs["x"], 2, batch_size=3)
    averaged = ensemble.add_streaming_output(
        window.outputs["mean_x"], update_size=2, num_updates=5
    )
    ensemble.export_version(None)
    assert averaged.shape == (1, 6)
    assert stream(ensemble)["outputs"] == [
        # (1 kernel of warm-up + 4 more to average) x 2 samples
        {"name": "output_stream", "num_warmup": 10, "size": 6}
    ]
    # 1 update fills the snapshot, 4 predictions come with two more
    assert stream(ensemble)["replay_updates"] == 3


def test_nothing_overtakes_on_the_way_to_a_state(
    ensemble, add, repository
) -> None:
    before, after = add("before", ("b", 24, 4)), add("after", ("b", 2))
    ensemble.add_streaming_inputs(before.inputs["x"], 2, batch_size=2)
    ensemble.add_streaming_output(before.outputs["mean_x"], 2, 2)
    ensemble.add_input(after.inputs["x"])
    ensemble.add_output(after.outputs["mean_x"], key="z")
    ensemble.export_version(None)
    kept = {
        name: model.config.dynamic_batching.preserve_ordering
        for name, model in ModelRepository(repository.root).models.items()
    }
    assert kept.pop("before")
    assert not any(kept.values())


def test_averages_that_cannot_be_are_refused(
    ensemble, add, repository
) -> None:
    flat, deep = add("flat", ("b", 4)), add("deep", ("b", 2, 3, 4, 5))
    window, fixed = add("window", ("b", 24, 4)), add("fixed", (3, 24, 4))
    with pytest.raises(
        ShapeMismatch, match=r"flat/mean_x has shape \(None,\)"
    ):
        ensemble.add_streaming_output(flat.outputs["mean_x"], 1, 1)
    with pytest.raises(ShapeMismatch, match="averaged are outputs of shape"):
        ensemble.add_streaming_output(deep.outputs["mean_x"], 1, 1)
    with pytest.raises(ShapeMismatch, match="give the number of predictions"):
        ensemble.add_streaming_output(window.outputs["mean_x"], 1, 1)
    with pytest.raises(ShapeMismatch, match=r"batches of 3 .* batch_size=2"):
        ensemble.add_streaming_output(
            fixed.outputs["mean_x"], 1, 1, batch_size=2
        )
    with pytest.raises(ShapeMismatch, match="needs predictions of 25 samples"):
        ensemble.add_streaming_output(fixed.outputs["mean_x"], 5, 5)
    assert "aggregator" not in repository.models
    assert not ensemble.config.ensemble_scheduling.step
    ensemble.add_streaming_output(fixed.outputs["mean_x"], 1, 2)
    assert ensemble.outputs["output_stream"].shape == (1, 3)


def test_a_layer_that_cannot_be_added_leaves_nothing(
    ensemble, add, repository
) -> None:
    model = add("a")
    with pytest.raises(ValueError, match="streams_per_gpu=0"):
        ensemble.add_streaming_inputs(model.inputs["x"], 4, streams_per_gpu=0)
    assert list(repository.models) == ["ensemble", "a"]
