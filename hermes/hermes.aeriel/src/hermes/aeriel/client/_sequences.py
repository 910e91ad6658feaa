"""Sequences: requests that share state on the server."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Self

import numpy as np
import numpy.typing as npt

from hermes.aeriel._html import table
from hermes.aeriel._transport import Response
from hermes.aeriel.client._checks import check_seconds
from hermes.aeriel.client._cleanup import Cleaner
from hermes.aeriel.client._course import Course
from hermes.aeriel.client._inflight import About
from hermes.aeriel.client._link import Link
from hermes.aeriel.client._progress import track
from hermes.aeriel.client._requests import Prepared, to_request, zeros
from hermes.aeriel.client._responses import cut
from hermes.aeriel.client._results import StreamResult
from hermes.aeriel.client._updates import Policy, Update
from hermes.aeriel.errors import AerielError, InvalidRequest, SequenceEnded
from hermes.aeriel.specs import ModelSpec

__all__ = ("Sequence",)

Input = npt.ArrayLike | Mapping[str, npt.ArrayLike]

# What keeps a sequence from starting more often than anything else.
_NO_SLOT = (
    "; the server may be serving as many sequences as it has places for"
    " (streams_per_gpu): this one waits until another ends"
)


class Sequence:
    """Requests in order that share state on the server.

    Made by `InferenceClient.sequence`. The first request carries START;
    leaving the context ends the sequence on the server, which frees its
    place there. When an update fails, what the server remembers of the
    sequence is unknown: those behind it fail too, and it takes no more. With
    ``replay=True`` the loss of the server is no failure: see
    `InferenceClient.sequence`. Use one sequence from one thread at a time.

    Attributes:
        id: What the caller calls it; see `InferenceClient.sequence`.
    """

    def __init__(
        self,
        link: Link,
        spec: ModelSpec,
        sequence_id: int,
        policy: Policy,
        cleaner: Cleaner,
        *,
        timeout: float,
        cast: bool,
        on_end: Callable[[], None],
    ) -> None:
        self.id = sequence_id
        self._link = link
        self._spec = spec
        self._policy = policy
        self._course = Course(link, spec, policy, cleaner)
        self._timeout = timeout
        self._cast = cast
        self._on_end = on_end
        self._num_sent = 0
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        course = getattr(self, "_course", None)  # not there if that failed
        if course is not None and not self._ended and course.is_on_server:
            self._link.end_forgotten(self, self._say_forgotten, self._leave)

    def __repr__(self) -> str:
        return f"Sequence({self.id}, {', '.join(self._facts())})"

    def _repr_html_(self) -> str:
        facts = [(fact,) for fact in self._facts()]
        return table(facts, head=(f"sequence {self.id}",))

    @property
    def num_warmup(self) -> int:
        """Predictions at its start that are not valid yet."""
        return 0 if self._spec.stream is None else self._spec.stream.num_warmup

    @property
    def num_recoveries(self) -> int:
        """How often its state was rebuilt on a server."""
        return self._course.num_recoveries

    def send(
        self,
        update: Input,
        end: bool = False,
        timeout: float | None = None,
    ) -> Future[StreamResult]:
        """Send the next update.

        Waits while ``max_in_flight`` updates are under way, but not in the
        callback of a Future.

        Args:
            update: The samples, as for `InferenceClient.submit`: the only
                input's array, or arrays by name. A streaming input takes
                ``(channels, update_size)`` as well as
                ``(1, channels, update_size)``. One with fewer samples is
                the stream's tail, and ends the sequence: zeros are sent in
                their place, and the predictions that they reach cut off.
            end: Whether it is the last one.
            timeout: Seconds until the Future fails.

        Returns:
            A Future of a `StreamResult`; its errors are those of
            `InferenceClient.submit`, and `SequenceLost`.

        Raises:
            SequenceEnded: If the sequence has ended.
            SequenceLost: If an update of it has failed.
            ServerUnavailable: If its server is gone.
            StreamBroken: If its server has ended its stream.
            InvalidRequest: If an input is missing or unknown.
            ShapeMismatch: If an array has the wrong shape.
            DtypeMismatch: If an array has the wrong dtype.
            DeadlineExceeded: If ``max_in_flight`` updates were under way
                for all that time.
            ClientClosed: If the client is closed.
            ClientForked: If the client belongs to the parent process.
        """
        self._link.check_usable()
        if self._ended:
            msg = f"sequence {self.id} has ended; begin another one"
            raise SequenceEnded(msg, sequence_id=self.id)
        prepared = to_request(
            self._spec, update, cast=self._cast, allow_tail=True
        )
        limit = self._timeout if timeout is None else timeout
        check_seconds(timeout=limit)
        self._course.wait_for_room(limit)
        is_tail = prepared.predictions is not None
        return self._push(prepared, end or is_tail, limit)

    def stream(
        self, updates: Iterable[Input], *, progress: bool = False
    ) -> Iterator[StreamResult]:
        """Send updates and yield their results in order.

        At most ``max_in_flight`` updates are under way: neither they nor
        the results pile up in memory. Everything happens in the calling
        thread: while it waits for the next update, or the caller works on
        a result, answers wait too. A real-time loop that needs each result
        at once uses `send`. When the source of the updates raises, or one
        cannot be sent, the results of those before come first. Whoever
        leaves the loop early leaves the results of what is under way.

        Args:
            updates: The updates, each as for `send`.
            progress: Whether to show a progress bar on stderr, or in the
                notebook; needs the extra ``cli``.

        Yields:
            The result of each.

        Raises:
            ExtraMissing: If ``progress`` is set without the extra.
            InvalidRequest: If it is an array of samples, not of updates.
        """
        samples = updates if isinstance(updates, np.ndarray) else None
        if self._spec.stream and samples is not None and samples.ndim < 3:
            msg = (
                f"updates is one array, of shape {samples.shape}: give its"
                " updates one by one, as np.split(x, num, axis=-1) does"
            )
            raise InvalidRequest(msg, sequence_id=self.id)
        results = self._stream(updates)
        return track(results, updates) if progress else results

    def close(self) -> None:
        """End the sequence on the server; waits at most half a second."""
        if self._link.is_forked:
            return
        future = self._leave()
        if future is not None:
            self._link.wait_for_end(future)

    def _leave(self) -> Future[StreamResult] | None:
        self._on_end()
        has_ended, self._ended = self._ended, True
        if has_ended or not self._course.is_on_server:
            return None
        # Triton ends a sequence with a request only: one of zeros, whose
        # answer nobody sees. An END that does not arrive is made up for by
        # the server's idle timeout.
        with contextlib.suppress(AerielError):
            prepared = Prepared(zeros(self._spec))
            return self._push(prepared, True, self._timeout)
        return None

    def _say_forgotten(self) -> str:
        return f"{self!r} was not ended"

    def _facts(self) -> Iterator[str]:
        yield f"{self._num_sent} updates sent"
        if self._course.num_recoveries:
            yield f"{self._course.num_recoveries} recoveries"
        if self._course.failure is not None:
            yield "lost"
        elif self._ended:
            yield "ended"

    def _stream(self, updates: Iterable[Input]) -> Iterator[StreamResult]:
        pending: deque[Future[StreamResult]] = deque()
        source = iter(updates)
        broken: Exception | None = None
        while True:
            try:
                pending.append(self.send(next(source)))
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001  # raised below
                broken = error
                break
            while pending and (
                len(pending) >= self._policy.max_in_flight or pending[0].done()
            ):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if broken is not None:
            # What was sent before has been answered, or has failed first.
            raise broken

    def _push(
        self, prepared: Prepared, end: bool, timeout: float
    ) -> Future[StreamResult]:
        tensors = prepared.tensors
        if self._policy.replay:
            # The caller may write into the arrays before they are replayed.
            tensors = {name: np.array(x) for name, x in tensors.items()}
        index = self._num_sent
        update = Update(
            about=About(self._spec.name, index, self.id, is_update=True),
            timeout=timeout,
            group=self._course,
            hint=_NO_SLOT if index == 0 else "",
            id=self._link.new_request_id(),
            index=index,
            tensors=tensors,
            is_end=end,
            predictions=prepared.predictions,
            convert=self._result,
        )
        self._course.push(update)
        self._num_sent += 1
        if end:
            self._ended = True
            self._on_end()
        return update.future

    def _result(self, update: Update, response: Response) -> StreamResult:
        stream = self._spec.stream
        outputs, num_warmup = dict(response.outputs), 0
        if stream is not None:
            size = stream.size
            if update.predictions is not None:
                outputs = cut(outputs, self._spec, update.predictions)
                size = min(size, update.predictions)
            left = stream.num_warmup - update.index * stream.size
            num_warmup = max(0, min(left, size))
        return StreamResult(
            outputs=outputs,
            index=update.index,
            num_warmup=num_warmup,
            latency=monotonic() - update.sent,
        )
