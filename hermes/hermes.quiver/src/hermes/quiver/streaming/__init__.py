"""State that lives on the server.

The snapshotter makes overlapping windows of new samples on the way in, the
online averager merges overlapping predictions on the way out.
"""

from hermes.quiver.streaming._averager import OnlineAverager
from hermes.quiver.streaming._layers import State
from hermes.quiver.streaming._snapshotter import Snapshotter, StreamedTensor

__all__ = ("OnlineAverager", "Snapshotter", "State", "StreamedTensor")
