"""A stage of a pipeline, as users write it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hermes.stillwater.errors import InvalidPipeline

if TYPE_CHECKING:
    from hermes.stillwater.pipeline import Pipeline

__all__ = ("PipelineProcess", "stage")

BUFFER_SIZE = 2**23
DEPTH = 64


class PipelineProcess:
    """Work that is done in processes of its own, package by package.

    Subclass it and override :meth:`process`, or wrap a function with
    :func:`stage`. ``a >> b`` makes a `Pipeline` of two stages.

    The instance is pickled and sent to a new interpreter, never forked: make
    what cannot be pickled (clients, files, GPU contexts) in :meth:`setup`.

    The first stage of a pipeline is its source. Its :meth:`process` is called
    with None: once if it is a generator function, else again and again until
    it raises `StopIteration`.

    Args:
        name: What errors, logs and statistics call the stage; the class's
            name if None.
        rate: Packages per second, at most; None for as many as come. A
            source is paced by what it gives, other stages by what they take.
        join_timeout: Seconds that :meth:`teardown` may take once the stream
            has ended.
        workers: Processes that share the work. Packages stay in order.
        buffer_size: Bytes of packages that may wait for each worker. Larger
            packages pass through in parts.
        depth: Packages that may wait for each worker.

    Raises:
        InvalidPipeline: If an option makes no sense.
    """

    def __init__(
        self,
        name: str | None = None,
        rate: float | None = None,
        join_timeout: float = 10,
        *,
        workers: int = 1,
        buffer_size: int = BUFFER_SIZE,
        depth: int = DEPTH,
    ) -> None:
        self.name = type(self).__name__ if name is None else name
        self.rate = rate
        self.join_timeout = join_timeout
        self.workers = workers
        self.buffer_size = buffer_size
        self.depth = depth
        self._check()

    def setup(self) -> None:
        """Make ready, in the stage's own process, before the first package."""

    def process(self, package: Any) -> Any:
        """Turn a package into what the next stage gets.

        Args:
            package: Any nesting of arrays and small objects. Its arrays
                belong to this stage, which may write to them. After a join it
                is a tuple with one package of each branch.

        Returns:
            A package, a generator of any number of them, or None for none.
        """
        raise NotImplementedError

    def finish(self) -> Any:
        """Give what is left once the stream has ended, like `process`.

        It is not called where the stream is broken off.
        """

    def teardown(self) -> None:
        """Release what :meth:`setup` made, however the stream ended."""

    def cleanup(self) -> None:
        """Remove what a killed process of this stage has left behind.

        The only method that is called in the program itself: after the end
        of a process that could not reach its :meth:`teardown`. What other
        processes are still using must stay.
        """

    def emit(self, package: Any, *, wait: bool = True) -> bool:
        """Send a package on, from any thread of the stage's process.

        For stages whose answers come later than :meth:`process` returns.

        Args:
            package: What the next stage gets.
            wait: Whether to wait for room, and for other threads that send.

        Returns:
            Whether it was sent; always, unless ``wait`` is false.

        Raises:
            ChannelError: If the next stage is gone, or the pipeline is left.
            InvalidPipeline: If the stage is not running, or has several
                workers.
        """
        emit: Callable[[Any, bool], bool] | None = self.__dict__.get("_emit")
        if emit is None:
            msg = f"{self.name!r} is not running: emit() is for its process"
            raise InvalidPipeline(msg)
        return emit(package, wait)

    def fail(self, error: BaseException) -> None:
        """Fail the stage from another thread of its process.

        Args:
            error: What `process` would have raised.

        Raises:
            InvalidPipeline: If the stage is not running.
        """
        fail: Callable[[BaseException], None] | None
        fail = self.__dict__.get("_fail")
        if fail is None:
            msg = f"{self.name!r} is not running: fail() is for its process"
            raise InvalidPipeline(msg)
        fail(error)

    def __rshift__(self, other: Any) -> Pipeline:
        return _pipeline(self, other)

    def __rrshift__(self, other: Any) -> Pipeline:
        return _pipeline(other, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _check(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise InvalidPipeline(f"name={self.name!r}: give a text")
        checks = {
            "rate": self.rate is None or _is_positive(self.rate),
            "join_timeout": _is_positive(self.join_timeout),
            "workers": _is_count(self.workers),
            "buffer_size": _is_count(self.buffer_size),
            "depth": _is_count(self.depth),
        }
        for option, good in checks.items():
            if not good:
                msg = (
                    f"{option}={getattr(self, option)!r} of {self.name!r}:"
                    " give a positive number"
                )
                raise InvalidPipeline(msg)


def _pipeline(*steps: Any) -> Pipeline:
    # A pipeline is made of stages, and stages make pipelines.
    from hermes.stillwater.pipeline import Pipeline  # noqa: PLC0415

    return Pipeline(*steps)


class _Wrapped(PipelineProcess):
    """A function, a generator function or an iterable as a stage."""

    def __init__(self, work: Any, **options: Any) -> None:
        super().__init__(**options)
        self._work = work

    def process(self, package: Any) -> Any:
        if not callable(self._work):
            return _iterate(self._work)
        return self._work(package)

    def generate(self) -> Iterator[Any]:
        """Give all packages, as the source of a pipeline."""
        work = self._work() if callable(self._work) else self._work
        yield from work


def stage(
    work: Callable[..., Any] | Iterable[Any],
    name: str | None = None,
    **options: Any,
) -> PipelineProcess:
    """Wrap a function, a generator function or an iterable as a stage.

    A stage that is a plain function next to a `PipelineProcess` or a
    `Pipeline` needs no wrapping: ``source >> numpy.square >> sink``.

    Args:
        work: A function of a package; for a source a function without
            parameters that returns an iterable, or the iterable itself.
        name: See `PipelineProcess`; the function's name if None.
        **options: See `PipelineProcess`.

    Returns:
        The stage.

    Raises:
        InvalidPipeline: If it is neither, or an option makes no sense.
    """
    if isinstance(work, PipelineProcess):
        raise InvalidPipeline(f"{work!r} is a stage already")
    if isinstance(work, type) and issubclass(work, PipelineProcess):
        name = work.__name__
        msg = f"{name} is a class of stages: give a stage, {name}(...)"
        raise InvalidPipeline(msg)
    if isinstance(work, GeneratorType):
        msg = (
            f"{work!r} is running here already and cannot move to another"
            " process: give the function that makes it"
        )
        raise InvalidPipeline(msg)
    if not callable(work) and not isinstance(work, Iterable):
        msg = f"{work!r} is no stage: give a function or an iterable"
        raise InvalidPipeline(msg)
    if name is None:
        name = getattr(work, "__name__", type(work).__name__)
    return _Wrapped(work, name=name, **options)


def _iterate(packages: Iterable[Any]) -> Iterator[Any]:
    yield from packages


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value < math.inf
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
