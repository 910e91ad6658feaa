"""Everything that quiver raises.

    QuiverError
    ├── RepositoryError
    │   ├── RepositoryNotFound   (FileNotFoundError)
    │   ├── InvalidName          (ValueError)
    │   ├── ModelExists          (ValueError)
    │   ├── ModelNotFound        (KeyError)
    │   ├── TensorNotFound       (KeyError)
    │   ├── UnknownPlatform      (ValueError)
    │   ├── VersionExists        (ValueError)
    │   ├── VersionNotFound      (LookupError)
    │   ├── InvalidConfig        (ValueError)
    │   └── StorageFailed        (OSError)
    │       └── StorageForbidden (PermissionError)
    ├── ExportError
    │   ├── ExportFailed         (RuntimeError)
    │   ├── UnsupportedExport    (TypeError)
    │   ├── InvalidInput         (ValueError)
    │   └── VerificationFailed   (AssertionError)
    ├── EnsembleError            (ValueError)
    ├── MissingExtra             (ImportError)
    ├── ShapeMismatch            (ValueError)
    └── DtypeMismatch            (ValueError)

A message says what was given, what was expected and what to do about it.
"""

__all__ = (
    "DtypeMismatch",
    "EnsembleError",
    "ExportError",
    "ExportFailed",
    "InvalidConfig",
    "InvalidInput",
    "InvalidName",
    "MissingExtra",
    "ModelExists",
    "ModelNotFound",
    "QuiverError",
    "RepositoryError",
    "RepositoryNotFound",
    "ShapeMismatch",
    "StorageFailed",
    "StorageForbidden",
    "TensorNotFound",
    "UnknownPlatform",
    "UnsupportedExport",
    "VerificationFailed",
    "VersionExists",
    "VersionNotFound",
)


class QuiverError(Exception):
    """Base of everything that quiver raises."""


class RepositoryError(QuiverError):
    """Something is wrong with the model repository or what is asked of it."""


class RepositoryNotFound(RepositoryError, FileNotFoundError):
    """There is no repository at the root and there cannot be one."""


class InvalidName(RepositoryError, ValueError):
    """A model's name cannot be the name of a directory that Triton loads."""


class ModelExists(RepositoryError, ValueError):
    """The repository has a model of this name already."""


class ModelNotFound(RepositoryError, KeyError):
    """The repository has no model of this name."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0])


class TensorNotFound(RepositoryError, KeyError):
    """The model has no input or output of this name."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0])


class UnknownPlatform(RepositoryError, ValueError):
    """There is no such platform."""


class VersionExists(RepositoryError, ValueError):
    """The model has this version already."""


class VersionNotFound(RepositoryError, LookupError):
    """The model has no such version."""


class InvalidConfig(RepositoryError, ValueError):
    """A model configuration cannot be read, or says contradictory things."""


class StorageFailed(RepositoryError, OSError):
    """The disk or the bucket does not do what is asked of it."""


class StorageForbidden(StorageFailed, PermissionError):
    """The disk or the bucket does not allow it."""


class ExportError(QuiverError):
    """A network could not be exported."""


class ExportFailed(ExportError, RuntimeError):
    """The framework cannot turn the network into the artifact."""


class UnsupportedExport(ExportError, TypeError):
    """There is no exporter from this kind of object to this platform."""


class InvalidInput(ExportError, ValueError):
    """The shapes, names or samples describing the inputs are wrong."""


class VerificationFailed(ExportError, AssertionError):
    """The exported artifact does not compute what the network computes."""


class EnsembleError(QuiverError, ValueError):
    """The graph of an ensemble is wrong or incomplete."""


class MissingExtra(QuiverError, ImportError):
    """An extra of hermes-quiver is needed that is not installed."""


class ShapeMismatch(QuiverError, ValueError):
    """Two tensors that should fit have different shapes."""


class DtypeMismatch(QuiverError, ValueError):
    """Two tensors that should fit have different dtypes."""
