"""Models joined into one: the server passes tensors from step to step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hermes.quiver import _graph
from hermes.quiver._extras import load, load_if_there
from hermes.quiver._steps import Step, check_fit, check_here, keep_order
from hermes.quiver._verify_stream import (
    StreamReport,
    can_run,
    verify_stream,
)
from hermes.quiver.config import Dims, ModelConfig
from hermes.quiver.errors import (
    EnsembleError,
    UnsupportedExport,
)
from hermes.quiver.models import ExposedTensor, Model
from hermes.quiver.platforms import Platform
from hermes.quiver.streaming import (
    _averager,
    _inputs,
    _parameters,
    _snapshotter,
)
from hermes.quiver.streaming._layers import add_layer

__all__ = ("Ensemble",)

_log = logging.getLogger(__name__)


class Ensemble(Model):
    """A graph of models that Triton runs as one.

    Made by `ModelRepository.add` with ``Platform.ENSEMBLE``.
    Its configuration is the graph: what the methods add stands in
    ``config.ensemble_scheduling``, and an ensemble read back from a
    repository can be extended.
    """

    def add_input(
        self,
        tensor: ExposedTensor,
        version: int | None = None,
        key: str | None = None,
    ) -> ExposedTensor:
        """Feed a model's input from the ensemble's own input.

        Args:
            tensor: The model's input.
            version: Version of the model; None is the latest.
            key: Name of the ensemble's input; the tensor's own by default.
                One that is there already feeds this tensor too.

        Returns:
            The ensemble's input.

        Raises:
            EnsembleError: If the tensor is no input of a model of this
                repository, or is fed already.
            ShapeMismatch: If ``key`` is an input of another shape.
            DtypeMismatch: If ``key`` is an input of another dtype.
        """
        check_here(self.repository, tensor, "input")
        name = key or tensor.name
        existing = self.inputs.get(name)
        if existing is not None:
            if key is None:
                msg = (
                    f"the ensemble has an input {name!r} already; give key="
                    f"{name!r} to feed {tensor} from it too, or another key"
                )
                raise EnsembleError(msg)
            check_fit(existing, tensor)
        _graph.feed(self.config, tensor, name, version)
        if existing is None:
            self.config.add_input(name, self._dims(tensor), tensor.dtype)
        return self.inputs[name]

    def add_output(
        self,
        tensor: ExposedTensor,
        version: int | None = None,
        key: str | None = None,
    ) -> ExposedTensor:
        """Give out a model's output as the ensemble's own.

        Args:
            tensor: The model's output.
            version: Version of the model; None is the latest.
            key: Name of the ensemble's output; the tensor's own by default.

        Returns:
            The ensemble's output.

        Raises:
            EnsembleError: If the tensor is no output of a model of this
                repository, or the name is taken.
        """
        check_here(self.repository, tensor, "output")
        name = key or tensor.name
        if name in self.outputs or name in self.inputs:
            msg = f"the ensemble has a tensor {name!r} already; give a key"
            raise EnsembleError(msg)
        _graph.name_output(self.config, tensor, name, version)
        self.config.add_output(name, self._dims(tensor), tensor.dtype)
        return self.outputs[name]

    def pipe(
        self,
        outbound: ExposedTensor,
        inbound: ExposedTensor,
        key: str | None = None,
    ) -> None:
        """Feed a model's output into another model's input.

        Args:
            outbound: The output.
            inbound: The input.
            key: Name of the tensor between them, as it appears in Triton's
                logs; ``"<model>.<tensor>"`` by default.

        Raises:
            EnsembleError: If they are not an output and an input of models
                of this repository, or the input is fed already.
            ShapeMismatch: If their shapes do not fit.
            DtypeMismatch: If their dtypes differ.
        """
        check_here(self.repository, outbound, "output")
        check_here(self.repository, inbound, "input")
        check_fit(outbound, inbound)
        _graph.connect(self.config, outbound, inbound, key)

    def add_step(self, model: Model | str, version: int | None = None) -> Step:
        """Run a model once more.

        The tensors of a model belong to the first step that runs it, which
        needs no call; those of a further one are the returned step's.

        Args:
            model: The model, or its name.
            version: Its version; None is the latest.

        Returns:
            The step, with ``inputs`` and ``outputs``.

        Raises:
            EnsembleError: If the repository has no such model.
        """
        name = model if isinstance(model, str) else model.name
        found = self.repository.models.get(name)
        if found is None or (isinstance(model, Model) and found is not model):
            msg = f"{self.repository.root} has no such model {name!r}"
            raise EnsembleError(msg)
        return Step(found, _graph.add_step(self.config, name, version))

    def add_streaming_inputs(
        self,
        inputs: ExposedTensor | Sequence[ExposedTensor],
        stream_size: int,
        batch_size: int = 1,
        name: str | None = None,
        streams_per_gpu: int = 1,
    ) -> ExposedTensor:
        """Feed inputs from a stream: the server keeps the windows.

        A snapshotter model is added to the repository. A client sends it
        updates of ``stream_size * batch_size`` new samples, all channels in
        the order of ``inputs``; it turns each into ``batch_size`` kernels,
        whose last samples are ``stream_size`` apart.

        Args:
            inputs: Inputs of shape ``(batch, channels, samples)`` or
                ``(batch, samples)``, all with as many samples.
            stream_size: Samples between consecutive kernels (the stride).
            batch_size: Kernels made of one update.
            name: Name of the snapshotter; ``"snapshotter"`` by default.
            streams_per_gpu: Sequences that can be served at a time on each
                GPU, or on the CPU.

        Returns:
            The ensemble's input, of shape
            ``(1, channels, stream_size * batch_size)``. It is called
            ``"snapshot_update"``; further ones
            ``"<snapshotter>.snapshot_update"``.

        Raises:
            EnsembleError: If an input cannot be fed by a stream here.
            ShapeMismatch: If the shapes do not allow it.
            DtypeMismatch: If the inputs' dtypes differ.
            ModelExists: If the repository has a model of that name.

        The first ``ceil(samples / stream_size) - 1`` kernels of a sequence
        start with zeros that were never sent: clients are told how many
        predictions that spoils.
        """
        if isinstance(inputs, ExposedTensor | str):
            inputs = [inputs]
        for tensor in inputs:
            check_here(self.repository, tensor, "input")
            _graph.check_unfed(self.config, tensor)
        plan = _inputs.plan_snapshotter(inputs, stream_size, batch_size)
        name = name or "snapshotter"
        key = _snapshotter.UPDATE
        if key in self.inputs:
            key = f"{name}.{key}"
        model = add_layer(self.repository, name, plan, streams_per_gpu)
        update = self.add_input(model.inputs[_snapshotter.UPDATE], key=key)
        for tensor, source in zip(inputs, plan.tensors, strict=True):
            self.pipe(model.outputs[source.name], tensor, key=source.name)
        return update

    def add_streaming_output(
        self,
        output: ExposedTensor,
        update_size: int,
        num_updates: int,
        batch_size: int | None = None,
        name: str | None = None,
        streams_per_gpu: int = 1,
        *,
        divide_by_contributions: bool = True,
    ) -> ExposedTensor:
        """Give out a running average of predictions that overlap.

        An averager model is added to the repository. Each prediction is a
        window of a time series, ``update_size`` samples after the last; each
        sample that comes out is the average of ``num_updates`` of them.

        Args:
            output: Output of shape ``(batch, channels, samples)`` or
                ``(batch, samples)``.
            update_size: Samples between the begins of consecutive
                predictions (the stride).
            num_updates: Predictions averaged for each sample.
            batch_size: Predictions per update; known by default where the
                output depends on a streaming input.
            name: Name of the averager; ``"aggregator"`` by default.
            streams_per_gpu: Sequences that can be served at a time on each
                GPU, or on the CPU.
            divide_by_contributions: Divide the first outputs by the number
                of predictions that contribute; False divides by
                ``num_updates``, so that they are too small.

        Returns:
            The ensemble's output, of shape
            ``(1, channels, update_size * batch_size)`` or without the
            channels. It is called ``"output_stream"``; further ones
            ``"<averager>.output_stream"``.

        Raises:
            EnsembleError: If it is no output of a model here.
            ShapeMismatch: If the shapes do not allow it.
            DtypeMismatch: If the output is not floating point.
            ModelExists: If the repository has a model of that name.

        A sample comes out ``(num_updates - 1) * update_size`` samples late:
        when the last prediction that covers it is there.
        """
        check_here(self.repository, output, "output")
        plan = _inputs.plan_averager(
            output,
            update_size,
            num_updates,
            batch_size or self._batch_size(output),
            divide_by_contributions,
        )
        name = name or "aggregator"
        key = _averager.OUTPUT
        if key in self.outputs:
            key = f"{name}.{key}"
        model = add_layer(self.repository, name, plan, streams_per_gpu)
        self.pipe(output, model.inputs[_averager.UPDATE])
        return self.add_output(model.outputs[_averager.OUTPUT], key=key)

    def _batch_size(self, output: ExposedTensor) -> int | None:
        """Predictions per update, if a streaming input decides it."""
        known = _parameters.flows(self.config, self.repository.models)
        flow = known.get(output.label)
        return None if flow is None else flow.size

    def export_version(
        self,
        model_fn: Any = None,
        version: int | None = None,
        *args: Any,
        force: bool = False,
        verify: bool | None = None,
        **options: Any,
    ) -> str:
        """Write the ensemble; there is no network to give.

        Args:
            model_fn: None.
            version: Number of the version; None takes the highest plus one.
            *args: Nothing.
            force: Replace the version if it is there.
            verify: Stream through the ensemble in this process and compare,
                see `verify_stream`. None does it where the extra is there,
                something streams and all models are ONNX.
            **options: Nothing.

        Returns:
            Address of the (empty) artifact.

        Raises:
            UnsupportedExport: If a network or options are given.
            EnsembleError: If the graph is incomplete or wrong: no inputs or
                outputs, a model that is missing or has no version, an input
                that nothing feeds, a step or an input that no output depends
                on, steps that wait for each other.
            VersionExists: If there is such a version and ``force`` is not
                set.
            VerificationFailed: If the stream differs in a bit.
            MissingExtra: If ``verify`` is set without the extra.
        """
        if (
            model_fn is not None
            or args
            or any(value is not None for value in options.values())
        ):
            msg = (
                "an ensemble is exported from its graph; call"
                " export_version(None) and join models with pipe"
            )
            raise UnsupportedExport(msg)
        self._check_version(version, force=force)
        config = self.config.copy()
        _graph.check_complete(config, self.repository.models)
        stream = _parameters.compose(config, self.repository.models)
        if stream is not None:
            _parameters.write_stream(config, stream)
        if verify is not False:
            self._verify(config, required=verify is True)
        keep_order(config, self.repository.models)
        files = {Platform.ENSEMBLE.filename: b""}
        return self._publish(version, files, config, force=force)

    def verify_stream(
        self, data: Mapping[str, npt.ArrayLike] | None = None
    ) -> StreamReport:
        """Stream through the ensemble in this process, and compare.

        Twice the same data: once with the states that a server would keep,
        once with sliding windows, and averages, computed from all of it.

        Args:
            data: A stream ``(channels, time)`` for each streaming input, by
                name, of a whole number of updates; random by default, enough
                to fill the snapshots but no more than 40 updates.

        Returns:
            What was compared.

        Raises:
            EnsembleError: If the graph is incomplete or wrong.
            UnsupportedExport: If nothing streams, or a model is not ONNX.
            InvalidInput: If the data is not such.
            VerificationFailed: If a bit differs; says where and by how much.
            MissingExtra: If the extra ``verify`` is not installed.
        """
        _graph.check_complete(self.config, self.repository.models)
        open_session = load("hermes.quiver.verify").open_session
        return verify_stream(self, self.config, open_session, data)

    def _verify(self, config: ModelConfig, *, required: bool) -> None:
        models = self.repository.models
        streams = _parameters.compose(config, models) is not None
        if not required and not (streams and can_run(config, models)):
            if streams:
                _log.warning(
                    "ensemble %r was not compared with what it computes"
                    " offline: that takes ONNX models",
                    self.name,
                )
            return
        verify = load_if_there("hermes.quiver.verify", required=required)
        if verify is not None:
            verify_stream(self, config, verify.open_session)

    def __str__(self) -> str:
        """The graph, a line per tensor."""
        return _graph.to_text(self.config)

    def to_mermaid(self) -> str:
        """The graph in Mermaid's language, which many viewers draw."""
        return _graph.to_mermaid(self.config)

    def _dims(self, tensor: ExposedTensor) -> Dims:
        # A max_batch_size set on the ensemble adds the batch axis itself.
        return tensor.shape[1:] if self.config.max_batch_size else tensor.shape
