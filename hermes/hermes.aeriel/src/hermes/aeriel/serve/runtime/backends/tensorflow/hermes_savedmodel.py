"""TensorFlow's SavedModels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes_configuration import (  # type: ignore[import-not-found]
    TensorInfo,
    count,
    load_framework,
    parameters,
)
from hermes_states import (  # type: ignore[import-not-found]
    DTYPES,
    Array,
    Arrays,
    LoadError,
    RequestError,
)

__all__ = ("SavedModel",)

_TYPES = {dtype: name for name, dtype in DTYPES.items()}
_TYPES["string"] = "TYPE_STRING"

_SIGNATURE = "serving_default"


class SavedModel:
    """A signature of a SavedModel: named arrays in, named arrays out.

    Args:
        file: The folder.
        config: The model's configuration.

    Raises:
        LoadError: If TensorFlow cannot load it, or it has no such signature.
    """

    def __init__(self, file: Path, config: Mapping[str, Any]) -> None:
        # Of what it finds on the machine it tells half a page.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self._tensorflow = load_framework("tensorflow")
        given = parameters(config)
        _set_devices(self._tensorflow, given)
        # The signature does not keep what it works with.
        self._loaded = self._load(file, given.get("TF_GRAPH_TAG"))
        self._signature = _signature(
            self._loaded, given.get("TF_SIGNATURE_DEF") or _SIGNATURE
        )
        _, takes = self._signature.structured_input_signature
        gives = self._signature.structured_outputs
        self.inputs = [_describe(name, spec) for name, spec in takes.items()]
        self.outputs = [_describe(name, spec) for name, spec in gives.items()]
        self._scalars = {
            name for name, spec in takes.items() if spec.shape.rank == 0
        }

    def run(self, outputs: Sequence[str], feeds: Arrays) -> list[Array]:
        """Run the signature once.

        Raises:
            RequestError: If the arrays are not what it takes.
        """
        for name in self._scalars & feeds.keys():
            if feeds[name].size == 1:
                feeds[name] = feeds[name].reshape(())
        try:
            tensors = {
                name: self._tensorflow.constant(array)
                for name, array in feeds.items()
            }
            results = self._signature(**tensors)
            return [results[name].numpy() for name in outputs]
        except Exception as error:
            raise RequestError(f"tensorflow: {error}") from error

    def _load(self, file: Path, tag: str | None) -> Any:
        if not file.is_dir():
            raise LoadError(
                f"{file} is no folder: of TensorFlow's formats the local "
                "runtime serves SavedModel (tensorflow_savedmodel)"
            )
        try:
            return self._tensorflow.saved_model.load(
                str(file), tags=None if tag is None else [tag]
            )
        except Exception as error:
            raise LoadError(
                f"tensorflow cannot load {file}: {error}"
            ) from error


def _signature(loaded: Any, name: str) -> Any:
    if name not in loaded.signatures:
        raise LoadError(
            f"the SavedModel has no signature '{name}'; it has "
            f"{', '.join(loaded.signatures) or 'none'}"
        )
    return loaded.signatures[name]


def _describe(name: str, spec: Any) -> TensorInfo:
    data_type = _TYPES.get(spec.dtype.name)
    if data_type is None:
        raise LoadError(
            f"tensor '{name}' of the SavedModel is {spec.dtype.name}: the "
            f"local runtime serves {', '.join(_TYPES)}"
        )
    rank = spec.shape.rank
    dims = spec.shape.as_list() if rank is not None else []
    sizes = [-1 if size is None else size for size in dims]
    return TensorInfo(name, data_type, tuple(sizes))


def _set_devices(tensorflow: Any, given: Mapping[str, str]) -> None:
    config = tensorflow.config
    config.set_visible_devices([], "GPU")
    if number := count(given, "TF_NUM_INTRA_THREADS"):
        config.threading.set_intra_op_parallelism_threads(number)
    if number := count(given, "TF_NUM_INTER_THREADS"):
        config.threading.set_inter_op_parallelism_threads(number)
