"""Inference as a stage; the only module that imports hermes.aeriel."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from hermes.stillwater.errors import (
    ExtraMissing,
    InvalidPipeline,
    InvalidSeries,
)
from hermes.stillwater.process import PipelineProcess
from hermes.stillwater.series import Chunk, SequenceEnd, StreamEnd, Update

try:
    from hermes.aeriel.client import InferenceClient
    from hermes.aeriel.errors import DtypeMismatch, ShapeMismatch
    from hermes.aeriel.specs import ModelSpec
except ModuleNotFoundError as error:
    raise ExtraMissing(
        "inference as a stage needs hermes.aeriel: install the extra 'triton'"
        " of hermes-stillwater"
    ) from error

__all__ = ("InferenceProcess",)

_log = logging.getLogger(__name__)


class _NoSequence:
    """Stands for what belongs to no sequence: a line of its own."""

    def __repr__(self) -> str:
        return "of plain arrays"


_NO_SEQUENCE = _NoSequence()


class InferenceProcess(PipelineProcess):
    """Have a Triton server process the packages, many at a time.

    An `Update` (as `Framer` gives it) belongs to a sequence, whose state the
    server keeps, and becomes a `Prediction` with the same times. A
    `SequenceEnd` ends the sequence on the server and passes on. Anything else
    (an array, or arrays by name) is a request by itself and becomes the
    model's output, or outputs by name if it has several; where the model
    keeps a state, all of them are one sequence.

    The answers of one sequence come in order; of several sequences, as they
    are ready. Not more sequences at once than the server has places
    (``streams_per_gpu``): the others wait, and hold up what is behind them.

    Args:
        endpoint: ``"host:port"``, an endpoint, or several of them; see
            `hermes.aeriel.client.InferenceClient`.
        model_name: Name of the model.
        model_version: Its version; -1 is the latest.
        replay: Whether sequences outlive the loss of a server: see
            `InferenceClient.sequence`. Of a model without a bound to its
            memory they cannot, and need False.
        max_in_flight: Updates of each sequence that may be under way, or
            wait for the next stage.
        timeout: Seconds until a request fails; recovery included.
        outputs: Which outputs are wanted; all by default.
        client_options: More keywords for `InferenceClient`.
        **options: See `PipelineProcess`. There is one worker: it is the
            server that works.

    Raises:
        InvalidPipeline: If an option makes no sense.
        ExtraMissing: When this module is imported without hermes.aeriel.
    """

    def __init__(
        self,
        endpoint: Any,
        model_name: str,
        model_version: int = -1,
        *,
        replay: bool = True,
        max_in_flight: int = 32,
        timeout: float = 60.0,
        outputs: Iterable[str] = (),
        client_options: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name or f"inference-{model_name}", **options)
        if self.workers != 1:
            msg = f"workers={self.workers}: an InferenceProcess has one"
            raise InvalidPipeline(msg)
        if isinstance(max_in_flight, bool) or max_in_flight < 1:
            msg = f"max_in_flight={max_in_flight!r}: give a positive number"
            raise InvalidPipeline(msg)
        self._client_arguments: dict[str, Any] = {
            "address": endpoint,
            "model_name": model_name,
            "model_version": model_version,
            "timeout": timeout,
            **(client_options or {}),
        }
        self._sequence_arguments: dict[str, Any] = {
            "replay": replay,
            "max_in_flight": max_in_flight,
            "outputs": tuple(outputs),
        }

    def setup(self) -> None:
        """Connect.

        Raises:
            AerielError: If no server has the model.
        """
        self._client = InferenceClient(**self._client_arguments)
        spec = self._client.spec
        self._is_stateful = spec.is_stateful
        self._sequences: dict[Hashable, Any] = {}
        self._update_size = _update_size(spec)
        size = self._update_size or "..."
        self._framer = f"Framer(update_size={size})"
        limit = self._sequence_arguments["max_in_flight"]
        self._answers = _Answers(self, limit)

    def process(self, package: Any) -> None:
        """Send a package; its answer is given later.

        Raises:
            AerielError: If it cannot be sent, or a request has failed.
            InvalidSeries: If it is a `Chunk`, or an `Update` that is shorter
                than those of the model, or that of a model without a state.
        """
        if isinstance(package, StreamEnd):
            self._answers.add(_NO_SEQUENCE, None, lambda _: package)
        elif isinstance(package, SequenceEnd):
            self._end(package.sequence)
            self._answers.add(package.sequence, None, lambda _: package)
        elif isinstance(package, Update):
            self._update(package)
        elif isinstance(package, Chunk):
            raise InvalidSeries(self._say_chunk())
        elif self._is_stateful:
            self._send(_NO_SEQUENCE, package, _plain)
        else:
            self._submit(package)

    def finish(self) -> None:
        """Wait for all answers, and end the sequences on the server."""
        for sequence in list(self._sequences):
            self._end(sequence)
        self._answers.finish()

    def teardown(self) -> None:
        """Disconnect."""
        if hasattr(self, "_client"):
            self._client.close()

    def _update(self, update: Update) -> None:
        self._check_update(update)
        try:
            self._send(update.sequence, update.data, _to_prediction(update))
        except ShapeMismatch as error:
            error.add_note(
                f"the updates of this model come from a {self._framer}"
            )
            raise
        except DtypeMismatch as error:
            error.add_note(
                "a Framer(..., dtype='float32') converts samples, or whatever"
                " dtype the model takes"
            )
            raise

    def _check_update(self, update: Update) -> None:
        if not self._is_stateful:
            raise InvalidSeries(
                f"an Update came to {self.name!r}, whose model keeps no state:"
                " name the ensemble that streams into it"
            )
        data, size = update.data, self._update_size
        parts = data.values() if isinstance(data, Mapping) else [data]
        found = min((part.shape[-1] for part in parts), default=0)
        if size is not None and found < size:
            # The client would take it for the tail that ends its stream.
            raise InvalidSeries(
                f"an Update of {found} samples came to {self.name!r}: the"
                f" updates of its model come from a {self._framer}"
            )

    def _say_chunk(self) -> str:
        return (
            f"a Chunk came to {self.name!r}, which takes updates of its model:"
            f" put a {self._framer} before it"
        )

    def _send(
        self, key: Hashable, data: Any, convert: Callable[[Any], Any]
    ) -> None:
        sequence = self._sequences.get(key)
        if sequence is None:
            sequence = self._client.sequence(**self._sequence_arguments)
            self._sequences[key] = sequence
        self._answers.wait_for_room(key)
        self._answers.add(key, sequence.send(data), convert)

    def _submit(self, package: Any) -> None:
        self._answers.wait_for_room(_NO_SEQUENCE)
        outputs = self._sequence_arguments["outputs"]
        future = self._client.submit(package, outputs=outputs)
        self._answers.add(_NO_SEQUENCE, future, lambda answer: answer)

    def _end(self, key: Hashable) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return
        sequence.close()
        if sequence.num_recoveries:
            _log.warning(
                "sequence %r was rebuilt on a server %d times",
                key,
                sequence.num_recoveries,
            )


def _update_size(spec: ModelSpec) -> int | None:
    """Samples in an update; None where inputs differ, or do not stream."""
    inputs = spec.stream.inputs if spec.stream else {}
    sizes = {each.update_size for each in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def _to_prediction(update: Update) -> Callable[[Any], Any]:
    return lambda result: update.answer(dict(result.outputs))


def _plain(result: Any) -> Any:
    outputs = dict(result.outputs)
    return outputs if len(outputs) != 1 else next(iter(outputs.values()))


_Waiting = tuple[Future[Any] | None, Callable[[Any], Any]]


class _Answers:
    """Gives answers on, those of one line in order.

    Whoever hears of an answer gives it on, so that it goes through as few
    threads as can be. What the next stage cannot take yet waits here, for a
    thread of its own: the client's must go on reading.
    """

    def __init__(self, stage: PipelineProcess, limit: int) -> None:
        self._stage = stage
        self._limit = limit
        self._lines: dict[Hashable, deque[_Waiting]] = {}
        self._room = threading.Condition()
        # held by who gives
        self._giving = threading.Lock()
        self._ready: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
        self._is_last = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, name="hermes-answers", daemon=True
        )
        self._thread.start()

    def wait_for_room(self, key: Hashable) -> None:
        """Wait until a line is shorter than its limit.

        Raises:
            Exception: What has failed.
        """
        with self._room:
            self._room.wait_for(
                lambda: self._error or len(self._line(key)) < self._limit
            )
        self._check()

    def add(
        self,
        key: Hashable,
        future: Future[Any] | None,
        convert: Callable[[Any], Any],
    ) -> None:
        """Add to the end of a line; without a future, it is there."""
        with self._room:
            self._line(key).append((future, convert))
        if future is None:
            self._ready.put(key)
        else:
            future.add_done_callback(lambda _: self._hear(key))

    def finish(self) -> None:
        """Wait until everything was given on.

        Raises:
            Exception: What has failed.
        """
        self._is_last = True
        self._ready.put(_NO_SEQUENCE)
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _line(self, key: Hashable) -> deque[_Waiting]:
        return self._lines.setdefault(key, deque())

    def _hear(self, key: Hashable) -> None:
        """Give on what is ready, if that takes no waiting."""
        was_given = False
        if self._giving.acquire(blocking=False):
            try:
                with contextlib.suppress(Exception):  # the thread meets it too
                    was_given = self._give(key, wait=False)
            finally:
                self._giving.release()
        # The thread waits for the last answer, whoever gives it.
        if not was_given or self._is_last:
            self._ready.put(key)

    def _run(self) -> None:
        try:
            while not self._is_last or self._lines:
                key = self._ready.get()
                with self._giving:
                    self._give(key, wait=True)
        except BaseException as error:  # noqa: BLE001
            with self._room:
                self._error = error
                self._room.notify_all()
            self._stage.fail(error)

    def _give(self, key: Hashable, *, wait: bool) -> bool:
        """Give on what is ready at the head of a line; tell whether it was."""
        line = None if self._error else self._lines.get(key)
        while line and (line[0][0] is None or line[0][0].done()):
            future, convert = line[0]
            result = None if future is None else future.result()
            if not self._stage.emit(convert(result), wait=wait):
                return False
            with self._room:
                line.popleft()
                # Who waits for room is woken when there is some, not for each.
                if len(line) <= self._limit // 2:
                    self._room.notify_all()
        with self._room:
            # Not a line that has begun meanwhile.
            if line is not None and not line:
                self._lines.pop(key, None)
        return True
