"""Time series stages for pipelines.

    source --Chunk--> Framer --Update--> model --Prediction--> Aligner
    Aligner --Series--> sink

A sequence begins with its first package and is over with its `SequenceEnd`.
"""

from hermes.stillwater.series._aligner import Aligner
from hermes.stillwater.series._chunks import (
    Chunk,
    Prediction,
    SequenceEnd,
    Series,
    StreamEnd,
    Update,
)
from hermes.stillwater.series._framer import Framer
from hermes.stillwater.series._grid import stride_size
from hermes.stillwater.series._hdf5 import HDF5Sink, HDF5Source
from hermes.stillwater.series._layout import Output
from hermes.stillwater.series._numpy import NumpySink
from hermes.stillwater.series._parquet import ParquetSink
from hermes.stillwater.series._replay import Lateness, Replay
from hermes.stillwater.series._sources import ArraySource, GeneratorSource

__all__ = (
    "Aligner",
    "ArraySource",
    "Chunk",
    "Framer",
    "GeneratorSource",
    "HDF5Sink",
    "HDF5Source",
    "Lateness",
    "NumpySink",
    "Output",
    "ParquetSink",
    "Prediction",
    "Replay",
    "SequenceEnd",
    "Series",
    "StreamEnd",
    "Update",
    "stride_size",
)
