"""Packages from one process to another, through memory that both share.

A ring of bytes holds what is on its way. Its two ends count, each in its own
word of the shared memory, the bytes written and read; nothing is ever locked,
so a process that is killed leaves nothing locked. A package that is larger
than the ring passes through it in parts, while both sides copy.

Whoever must wait sleeps in the kernel: on an eventfd, to which the other side
writes after it has moved, and on a socket, which ends when the other side is
gone. No name is made anywhere (`/dev/shm`, semaphores), so that nothing can be
left behind, whatever is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import Any

import numpy as np

from hermes.stillwater._packing import (
    HEADER_SIZE,
    Header,
    Packer,
    Taken,
    array_sizes,
)
from hermes.stillwater._side import (
    NUM_RECEIVED,
    NUM_SENT,
    READ,
    RECEIVER_SLEEPS,
    RESERVED,
    SENDER_SLEEPS,
    WRITTEN,
    Side,
    barrier,
)
from hermes.stillwater.errors import (
    ChannelBroken,
    ChannelError,
    InvalidPipeline,
)

__all__ = ("END", "Receiver", "Sender", "open_channel")

BUFFER_SIZE = 2**23
DEPTH = 64

PACKAGE, LAST_OF_GROUP, END_OF_GROUP, END_OF_STREAM = range(4)

# A part small enough to be still in the cache when the other side copies it.
_PART = 2**18
# A sender looks this often whether anybody reads, where it never waits, and
# for room that it was not told of, where it does [s].
_LOOK_INTERVAL = 0.2


class _End:
    """Stands for the end of a stream."""

    def __repr__(self) -> str:
        return "END"

    def __reduce__(self) -> str:
        return "END"


END = _End()


def open_channel(
    buffer_size: int = BUFFER_SIZE, depth: int = DEPTH
) -> tuple[Sender, Receiver]:
    """Make a channel.

    Either end may be handed, unused, to another process while that is being
    started (`multiprocessing.Process`, spawned or forked). The process that
    hands it over must close its own copy then, and a forked one the end that
    is not its own: an end is known to be gone when its last copy is.

    Args:
        buffer_size: Bytes that may be on their way.
        depth: Packages that may be on their way.

    Returns:
        The two ends.

    Raises:
        InvalidPipeline: If a size is not positive.
        ChannelError: Where the system has no eventfd or memfd (not Linux),
            or no more of them.
    """
    if buffer_size < 1 or depth < 1:
        msg = f"buffer_size={buffer_size}, depth={depth}: both must be >= 1"
        raise InvalidPipeline(msg)
    if not hasattr(os, "eventfd") or not hasattr(os, "memfd_create"):
        raise ChannelError("channels need Linux: its eventfd and memfd")
    try:
        ours, theirs = _open_fds(RESERVED + buffer_size)
    except OSError as error:
        msg = f"no channel of {buffer_size} bytes can be opened: {error}"
        if error.errno == errno.EMFILE:
            msg += "; each needs eight files, see `ulimit -n`"
        raise ChannelError(msg) from error
    return (
        Sender(ours, buffer_size, depth),
        Receiver(theirs, buffer_size, depth),
    )


def _open_fds(size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    with contextlib.ExitStack() as opened:

        def keep(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        memory = keep(os.memfd_create("hermes-channel"))
        os.ftruncate(memory, size)
        data = keep(os.eventfd(0, os.EFD_NONBLOCK))
        space = keep(os.eventfd(0, os.EFD_NONBLOCK))
        copies = [keep(os.dup(fd)) for fd in (memory, data, space)]
        ours, theirs = (keep(end.detach()) for end in socket.socketpair())
        opened.pop_all()
    return (memory, data, space, ours), (*copies, theirs)


_NO_RECEIVER = "the receiving process is gone"


class Sender(Side):
    """The end that gives. One thread at a time may use it.

    Leaving its ``with`` block closes it: unless :meth:`end` was called before,
    the other side takes that for a death.
    """

    _longest_sleep = _LOOK_INTERVAL

    def __init__(
        self, fds: tuple[int, ...], buffer_size: int, depth: int
    ) -> None:
        super().__init__(fds, buffer_size, depth)
        _, self._post_fd, self._wait_fd, _ = fds
        self._sleeps, self._other_sleeps = SENDER_SLEEPS, RECEIVER_SLEEPS
        self._packer = Packer()
        self._num_sent = 0
        self._next_look = 0.0

    def send(self, package: object, timeout: float | None = None) -> None:
        """Send a package; wait while the channel is full.

        Args:
            package: Any nesting of arrays and small objects. The data of
                arrays is copied, not pickled.
            timeout: Seconds; None for as long as it takes. A channel is of no
                more use once a package was sent in part: what follows raises
                `ChannelBroken`, here and there.

        Raises:
            ChannelBroken: If the other side is gone.
            ChannelClosed: If this side was closed or interrupted.
            ChannelTimeout: If there was no room in time.
        """
        self.send_kind(PACKAGE, package, timeout)

    def end(self, timeout: float | None = None) -> None:
        """Say that nothing follows; see `send` for what is raised."""
        self.send_kind(END_OF_STREAM, None, timeout)

    def send_kind(
        self, kind: int, package: object, timeout: float | None = None
    ) -> None:
        """Send a package of a kind; see `send`."""
        deadline = self._begin(timeout)
        self._look()
        words = self._words
        while self._num_sent - words[NUM_RECEIVED] >= self._depth:
            self._wait_for_space(deadline)
        self._put(self._packer.pack(kind, package), deadline)

    def offer_kind(self, kind: int, package: object) -> bool:
        """Send a package if there is room for all of it; tell whether."""
        self._begin(None)
        self._look()
        words = self._words
        if self._num_sent - words[NUM_RECEIVED] >= self._depth:
            return False
        parts = self._packer.pack(kind, package)
        free = self._buffer_size - (self._moved - words[READ])
        if sum(memoryview(part).nbytes for part in parts) > free:
            return False
        self._put(parts, None)
        return True

    def _put(
        self, parts: list[bytes | memoryview], deadline: float | None
    ) -> None:
        for part in parts:
            self._write(part, deadline)
        self._num_sent += 1
        self._words[NUM_SENT] = self._num_sent
        self._boundary = self._moved
        self._post()

    def _look(self) -> None:
        """Notice a death where there is always room."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_INTERVAL
            if self._life.poll(0):
                raise ChannelBroken(_NO_RECEIVER)

    def _write(self, data: bytes | memoryview, deadline: float | None) -> None:
        capacity, words, ring = self._buffer_size, self._words, self._ring
        view = memoryview(data)
        done, size = 0, len(view)
        while done < size:
            free = capacity - (self._moved - words[READ])
            if not free:
                self._wait_for_space(deadline)
                continue
            begin = self._moved % capacity
            part = min(size - done, free, capacity - begin, _PART)
            ring[begin : begin + part] = view[done : done + part]
            barrier()
            done += part
            self._moved += part
            words[WRITTEN] = self._moved
            if done < size:
                self._post()

    def _has_room(self) -> bool:
        words = self._words
        return (
            self._moved - words[READ] < self._buffer_size
            and self._num_sent - words[NUM_RECEIVED] < self._depth
        )

    def _wait_for_space(self, deadline: float | None) -> None:
        if not self._wait(deadline, self._has_room):
            raise ChannelBroken(_NO_RECEIVER)


class Receiver(Side):
    """The end that takes. One thread at a time may use it."""

    def __init__(
        self, fds: tuple[int, ...], buffer_size: int, depth: int
    ) -> None:
        super().__init__(fds, buffer_size, depth)
        _, self._wait_fd, self._post_fd, _ = fds
        self._sleeps, self._other_sleeps = RECEIVER_SLEEPS, SENDER_SLEEPS
        self._num_received = 0
        # What the sender may have to wait for: it is told once a quarter of
        # the ring is free again, not at each byte. A receiver that takes less
        # than that, and then waits for the sender itself, is why that looks.
        self._told_read = self._told_received = 0
        self._read_step = max(1, buffer_size // 4)
        self._received_step = max(1, depth // 4)

    def receive(self, timeout: float | None = None) -> Any:
        """Wait for the next package.

        Args:
            timeout: Seconds; None for as long as it takes. A channel is of no
                more use once a package was received in part.

        Returns:
            The package, whose arrays nobody else holds; `END` at the end of
            the stream.

        Raises:
            ChannelBroken: If the other side is gone, and had not said that
                this is the end.
            ChannelClosed: If this side was closed or interrupted.
            ChannelTimeout: If nothing came in time.
            Exception: What a package raises that cannot be made again here;
                the next one can be received.
        """
        kind, package = self.receive_kind(timeout)
        return END if kind == END_OF_STREAM else package

    def receive_kind(self, timeout: float | None = None) -> tuple[int, Any]:
        """Wait for the next package and its kind; see `receive`."""
        deadline = self._begin(timeout)
        while not self._has_data():
            self._wait_for_data(deadline)
        taken = self._take_whole() or self._take_parts(deadline)
        self._num_received += 1
        self._words[NUM_RECEIVED] = self._num_received
        self._boundary = self._moved
        if (
            self._moved - self._told_read >= self._read_step
            or self._num_received - self._told_received >= self._received_step
        ):
            self._tell()
        # Last: what cannot be made again here has crossed all the same.
        return taken.header.kind, taken.unpack()

    def _take_whole(self) -> Taken | None:
        """Take a small package that is there, in one piece."""
        begin = self._moved % self._buffer_size
        there = min(
            self._words[WRITTEN] - self._moved, self._buffer_size - begin
        )
        barrier()
        if there < HEADER_SIZE:
            return None
        header = Header.read(self._ring, begin)
        begin += HEADER_SIZE
        if not header.is_small or there < HEADER_SIZE + header.size:
            return None
        body = memoryview(bytearray(self._ring[begin : begin + header.size]))
        barrier()
        self._moved += HEADER_SIZE + header.size
        self._words[READ] = self._moved
        return Taken(header, body)

    def _take_parts(self, deadline: float | None) -> Taken:
        """Take a package as it comes."""
        first = bytearray(HEADER_SIZE)
        self._read_into(memoryview(first), deadline)
        header = Header.read(first)
        if header.is_small:
            body = memoryview(bytearray(header.size))
            self._read_into(body, deadline)
            return Taken(header, body)
        head = memoryview(bytearray(header.head_size))
        self._read_into(head, deadline)
        arrays = [_make_room(size) for size in array_sizes(header, head)]
        for array in arrays:
            self._read_into(array, deadline)
        return Taken(header, head, arrays)

    def _read_into(self, view: memoryview, deadline: float | None) -> None:
        capacity, words, ring = self._buffer_size, self._words, self._ring
        done, size = 0, len(view)
        while done < size:
            there = words[WRITTEN] - self._moved
            if not there:
                self._wait_for_data(deadline)
                continue
            barrier()
            begin = self._moved % capacity
            part = min(size - done, there, capacity - begin)
            view[done : done + part] = ring[begin : begin + part]
            barrier()
            done += part
            self._moved += part
            words[READ] = self._moved
            if self._moved - self._told_read >= self._read_step:
                self._tell()

    def _has_data(self) -> bool:
        return self._words[WRITTEN] > self._moved

    def _wait_for_data(self, deadline: float | None) -> None:
        if not self._wait(deadline, self._has_data) and not self._has_data():
            msg = "the sending process is gone before the end of its stream"
            raise ChannelBroken(msg)

    def _tell(self) -> None:
        self._told_read = self._moved
        self._told_received = self._num_received
        self._post()


def _make_room(size: int) -> memoryview:
    """Memory for arrays: not zeroed, and aligned by numpy."""
    return np.empty(size, np.uint8).data
