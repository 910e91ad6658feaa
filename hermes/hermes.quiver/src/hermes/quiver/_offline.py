"""What streaming layers compute, the slow obvious way, with no state.

A stream is right if it equals these: `hermes.quiver.verify` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes.quiver.streaming._parameters import Memory

__all__ = ("average", "kernels")

Array = npt.NDArray[Any]


def kernels(samples: Array, memory: Memory, update: int) -> Array:
    """The sliding windows that end within one update of a stream.

    Args:
        samples: The whole stream, ``(channels, time)``.
        memory: Of the snapshotter that makes them on the server.
        update: Number of the update.

    Returns:
        Array of shape ``(batch_size, channels, snapshot_size)``; what lies
        before the stream is zero.
    """
    size, stride = memory["snapshot_size"], memory["stride_size"]
    padded = np.pad(samples, ((0, 0), (size, 0)))
    first = update * memory["batch_size"]
    begins = [(first + i + 1) * stride for i in range(memory["batch_size"])]
    return np.stack([padded[:, begin : begin + size] for begin in begins])


def average(predictions: Sequence[Array], memory: Memory) -> Array:
    """The blocks of samples that are due after the last predictions.

    Args:
        predictions: All predictions of the stream so far, each
            ``(..., samples)``.
        memory: Of the averager that merges them on the server.

    Returns:
        Array of shape ``(1, ..., update_size * batch_size)``.
    """
    last = len(predictions)
    batch = range(last - memory["batch_size"], last)
    blocks = [_block(predictions[: i + 1], memory) for i in batch]
    return np.concatenate(blocks, axis=-1)[None]


def _block(predictions: Sequence[Array], memory: Memory) -> Array:
    block, depth = memory["update_size"], memory["num_updates"] or 1
    used = predictions[-depth:]
    total = np.zeros_like(used[0][..., :block])
    # In the order of the stream: another would change the last bit.
    for age, prediction in zip(
        range(len(used) - 1, -1, -1), used, strict=True
    ):
        begin = prediction.shape[-1] - block * (depth - age)
        total = total + prediction[..., begin : begin + block]
    count = len(used) if memory["divide_by_contributions"] else depth
    return np.asarray(total / total.dtype.type(count))
