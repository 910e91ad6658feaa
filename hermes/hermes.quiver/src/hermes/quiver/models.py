"""One model of a repository, and the tensors it exposes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import exporters
from hermes.quiver._named import Named
from hermes.quiver.config import Dims, ModelConfig
from hermes.quiver.errors import (
    InvalidConfig,
    TensorNotFound,
    UnknownPlatform,
    VersionExists,
    VersionNotFound,
)
from hermes.quiver.exporters import Artifact, Request, TensorInfo
from hermes.quiver.platforms import Platform

if TYPE_CHECKING:
    from hermes.quiver.repository import ModelRepository
    from hermes.quiver.storage import Storage

__all__ = ("ExposedTensor", "Model")


@dataclass(frozen=True)
class ExposedTensor:
    """An input or output of a model, to be joined to others.

    Attributes:
        model: The model that has it.
        name: Its name there.
        shape: Its shape with the batch axis; None is variable.
        dtype: Its numpy dtype.
        step: Which of an ensemble's steps that run the model; see
            `Ensemble.add_step`.
    """

    model: Model
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype
    step: int = 0

    @property
    def label(self) -> str:
        """What the step is called: its model's name, numbered if repeated."""
        number = f"#{self.step + 1}" if self.step else ""
        return f"{self.model.name}{number}"

    def __str__(self) -> str:
        return f"{self.label}/{self.name}"


class Model:
    """A model of a repository; made by `ModelRepository.add`.

    Attributes:
        name: Its name.
        repository: The repository that it belongs to.
        problem: What is wrong with the configuration that was found; None
            if it is sound. `config` has what could be read of it.
    """

    def __init__(
        self,
        name: str,
        repository: ModelRepository,
        storage: Storage,
        config: ModelConfig,
        problem: str | None = None,
    ) -> None:
        self.name = name
        self.repository = repository
        self.problem = problem
        self._storage = storage
        self.config = config

    def __repr__(self) -> str:
        platform = str(self.platform)
        problem = f", problem={self.problem!r}" if self.problem else ""
        return f"{type(self).__name__}({self.name!r}, {platform!r}{problem})"

    @property
    def config(self) -> ModelConfig:
        """Triton's configuration of it.

        Assignments are written with the next version, or by
        ``config.write()``.
        """
        return self._config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._config = config.bound_to(self.write_config)

    @property
    def platform(self) -> Platform | str:
        """What executes it; Triton's own string if quiver has no exporter."""
        return Platform.of(self.config.platform, self.config.backend)

    @property
    def versions(self) -> list[int]:
        """Its versions in the repository, ascending."""
        return self._storage.versions(self.name)

    @property
    def inputs(self) -> dict[str, ExposedTensor]:
        """What a request to it must carry."""
        return self._exposed("input")

    @property
    def outputs(self) -> dict[str, ExposedTensor]:
        """What its answers carry."""
        return self._exposed("output")

    def _exposed(self, kind: str) -> dict[str, ExposedTensor]:
        tensors = {
            name: ExposedTensor(self, name, shape, dtype)
            for name, (shape, dtype) in self.config.shapes(kind).items()
        }
        owner = f"model {self.name!r} has no {kind}"
        return Named(tensors, TensorNotFound, owner)

    def write_config(self) -> None:
        """Write the configuration of a model that has been exported.

        Raises:
            InvalidConfig: If the file that is there could not be read whole.
            StorageFailed: If it cannot be written.
        """
        self._check_sound()
        self._storage.write_config(self.name, str(self.config))

    def _check_sound(self) -> None:
        if self.problem is not None:
            msg = (
                f"the configuration of {self.name!r} would be overwritten, but"
                f" it is not understood: {self.problem}; correct it and call"
                " refresh(), or replace the model by add(..., force=True)"
            )
            raise InvalidConfig(msg)

    def read_version(
        self, version: int | None = None, filename: str | None = None
    ) -> bytes:
        """Read an artifact back.

        Args:
            version: Its version; None is the latest.
            filename: Another file of the version's directory, such as one
                of a SavedModel's.

        Raises:
            StorageFailed: If it cannot be read.
            VersionNotFound: If there is no such version.
            UnknownPlatform: If its artifact is no single file, or quiver
                does not know which file it is.
        """
        artifact = filename or self._filename()
        if artifact == Platform.SAVEDMODEL.filename:
            msg = (
                f"the artifact of {self.name!r} is a directory, {artifact};"
                f" read its files at {self._storage.address(self.name)}"
            )
            raise UnknownPlatform(msg)
        versions = self.versions
        if not versions or version not in {None, *versions}:
            msg = f"model {self.name!r} has versions {versions}, not {version}"
            raise VersionNotFound(msg)
        return self._storage.read_artifact(
            self.name, version or versions[-1], artifact
        )

    def _filename(self) -> str:
        if isinstance(self.platform, Platform):
            return self.platform.filename
        msg = (
            f"model {self.name!r} is executed by {self.platform!r}, whose"
            " artifacts quiver does not know"
        )
        raise UnknownPlatform(msg)

    def export_version(
        self,
        model_fn: Any,
        version: int | None = None,
        input_shapes: Mapping[str, Dims] | Sequence[Dims] | None = None,
        output_names: Sequence[str] | None = None,
        *,
        sample_inputs: Mapping[str, npt.ArrayLike]
        | Sequence[npt.ArrayLike]
        | None = None,
        input_names: Sequence[str] | None = None,
        verify: bool | None = None,
        force: bool = False,
        **exporter_options: Any,
    ) -> str:
        """Export a network as a version of this model.

        The first version declares the inputs and outputs in `config`; later
        ones must agree with them.

        Args:
            model_fn: The network: a ``torch.nn.Module``; a Keras 3
                network, a ``tf.Module`` or ``tf.function``; an ONNX
                ``ModelProto``, the address of a file with one, or a model
                that has one; for ``Platform.PYTHON`` a file or a class.
            version: Number of the version; None takes the highest plus one,
                also where several processes export at the same time.
            input_shapes: Shape of each input, batch axis included, by name
                or in the order of the network's arguments. None (or -1) is
                variable. Of the dtype of the network's parameters unless
                there is a sample.
            output_names: Names of the outputs in their order.
            sample_inputs: An example of each input, as ``input_shapes``;
                gives shapes (with a variable first axis) where those are
                absent, and dtypes. Needed where the network takes only
                certain sizes or values.
            input_names: Names of the inputs, in the order of the network's
                arguments; the arguments' own names by default.
            verify: Run the artifact against the network and compare; needs
                the extra ``verify``. None does it where the extra is there.
            force: Replace the version if it is there.
            **exporter_options: Passed to the exporter (``opset_version`` for
                ONNX, ``method`` for TorchScript, ``use_fp16`` and others for
                TensorRT; docs/exporting.md has them all).

        Returns:
            Address of the artifact.

        Raises:
            UnsupportedExport: If no exporter takes such a network to this
                platform.
            MissingExtra: If a needed extra is not installed.
            ExportFailed: If the framework cannot export the network.
            InvalidInput: If shapes, names or samples do not describe the
                network's inputs.
            InvalidConfig: If the tensors differ from an earlier version's.
            VerificationFailed: If the artifact computes something else.
            VersionExists: If there is such a version and ``force`` is not
                set.
            StorageFailed: If it cannot be written. Then, as after every
                failure, the repository is what it was.
        """
        self._check_version(version, force=force)
        request = Request(
            shapes=input_shapes,
            samples=sample_inputs,
            input_names=input_names,
            output_names=output_names,
            inputs=_infos(self.config, "input"),
            outputs=_infos(self.config, "output"),
            max_batch_size=self.config.max_batch_size,
            verify=verify,
            options=exporter_options,
        )
        artifact = exporters.export(model_fn, self.platform, request)
        config = _declare(self.config, artifact)
        return self._publish(version, artifact.files, config, force=force)

    def _publish(
        self,
        version: int | None,
        files: Mapping[str, bytes],
        config: ModelConfig,
        *,
        force: bool = False,
    ) -> str:
        """Write a version; memory changes after the storage did."""
        number = self._storage.publish(
            self.name, version, files, str(config), replace=force
        )
        self.config = config
        return self._storage.address(self.name, number, self._filename())

    def _check_version(
        self, version: int | None, *, force: bool = False
    ) -> None:
        """Refuse what cannot be published before time is spent on it."""
        self._check_sound()
        self._storage.check_writable()
        if version is None:
            return
        if isinstance(version, bool) or not isinstance(version, int):
            msg = f"version={version!r} is no whole number"
            raise InvalidConfig(msg)
        if version < 1:
            msg = f"version={version}: Triton's versions start at 1"
            raise InvalidConfig(msg)
        if version in self.versions and not force:
            msg = (
                f"model {self.name!r} has a version {version} already;"
                " leave version=None for the next free one, or set force=True"
                " to replace it"
            )
            raise VersionExists(msg)


def _infos(config: ModelConfig, kind: str) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, shape, dtype)
        for name, (shape, dtype) in config.shapes(kind, inside=True).items()
    )


def _declare(config: ModelConfig, artifact: Artifact) -> ModelConfig:
    """Declare an artifact's tensors, or check them against the declared.

    Returns:
        A configuration of its own: the given one stays as it is, so that a
        failed export changes nothing.

    Raises:
        InvalidConfig: If the tensors contradict the configuration.
    """
    config = config.copy()
    hidden = config.state_names()
    for kind, tensors in (
        ("input", artifact.inputs),
        ("output", artifact.outputs),
    ):
        visible = [t for t in tensors if t.name not in hidden]
        if not getattr(config, kind):
            add = getattr(config, f"add_{kind}")
            for tensor in visible:
                dims = _without_batch(tensor, config.max_batch_size)
                add(tensor.name, dims, tensor.dtype)
        _check_declared(config, kind, visible)
    return config


def _without_batch(tensor: TensorInfo, max_batch_size: int) -> Dims:
    if max_batch_size <= 0 and tensor.shape:
        return tensor.shape
    if max_batch_size <= 0:
        msg = (
            f"{tensor.name} is a scalar, and Triton's tensors have axes; let"
            " it have one, of size 1"
        )
        raise InvalidConfig(msg)
    if not tensor.shape or tensor.shape[0] is not None:
        msg = (
            f"max_batch_size={max_batch_size} needs a variable batch axis, but"
            f" {tensor.name} has shape {tensor.shape}; export it with None"
            " as first dimension, or set max_batch_size=0"
        )
        raise InvalidConfig(msg)
    return tensor.shape[1:]


def _check_declared(
    config: ModelConfig, kind: str, tensors: Sequence[TensorInfo]
) -> None:
    declared = config.shapes(kind, inside=True)
    actual = {t.name: (t.shape, t.dtype) for t in tensors}
    if config.platform == Platform.TORCHSCRIPT and {*declared} == {*actual}:
        _check_order(config, kind, list(declared), list(actual))
    if declared != actual:
        renamed = f", or name them with {kind}_names, in their order"
        msg = (
            f"the {kind}s of this version of {config.name!r} differ from its"
            f" configuration: exported {_show(actual)}, declared"
            f" {_show(declared)}; export it as another model"
            f"{'' if {*declared} == {*actual} else renamed}"
        )
        raise InvalidConfig(msg)


def _check_order(
    config: ModelConfig, kind: str, declared: list[str], actual: list[str]
) -> None:
    if declared != actual:
        msg = (
            f"Triton tells the {kind}s of a TorchScript by their order, which"
            f" is {actual}, and {config.name!r} declares {declared}"
        )
        raise InvalidConfig(msg)


def _show(
    tensors: Mapping[str, tuple[tuple[int | None, ...], np.dtype]],
) -> str:
    return ", ".join(
        f"{name} {dtype}{list(shape)}"
        for name, (shape, dtype) in tensors.items()
    )
