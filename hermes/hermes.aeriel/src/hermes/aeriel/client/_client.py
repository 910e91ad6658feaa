"""The client: what its users call."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn, Self

import numpy.typing as npt

from hermes.aeriel._html import table
from hermes.aeriel._transport import Parameter, Transport
from hermes.aeriel.client._checks import (
    check_max_in_flight,
    check_numbers,
    check_seconds,
    check_sequence,
)
from hermes.aeriel.client._cleanup import Cleaner
from hermes.aeriel.client._connect import Address, Options, open_peers
from hermes.aeriel.client._inflight import About
from hermes.aeriel.client._link import Link, is_answering
from hermes.aeriel.client._mailbox import Callback, Mailbox
from hermes.aeriel.client._numbered import Message, Numbered, Singles
from hermes.aeriel.client._peers import Model, Peers
from hermes.aeriel.client._requests import (
    Arrays,
    check_outputs,
    check_parameters,
    to_request,
)
from hermes.aeriel.client._responses import trim
from hermes.aeriel.client._sequences import Sequence
from hermes.aeriel.client._updates import Policy
from hermes.aeriel.errors import InvalidRequest

__all__ = ("InferenceClient",)

Input = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Output = npt.NDArray[Any] | Arrays


class InferenceClient:
    """A client of one model on one Triton server, or on several.

    It asks the server for the model's inputs, outputs and streams, so that
    arrays are checked before they are sent. Each request gets a Future that
    ends in the answer or an error, within its deadline, whatever happens to
    server or network. Where the server loads models on demand, it is told
    to load this one.

    Args:
        address: ``"host:port"`` of the server's gRPC endpoint, or an object
            with it as ``grpc`` (such as ``server.endpoint``); or several in
            a list, which must have the same model: sequences are spread
            over them, and when one is gone the others take over.
        model_name: Name of the model.
        model_version: Its version; -1 is the latest.
        batch_size: Rows of the model's variable batch that are sent in each
            request: fewer are filled up with zeros, more are refused. 1 is
            as many as are given.
        callback: Called with each answer to `infer`, the request's id and
            the sequence's; see `get`.
        profile: Whether to keep how long each request took, as
            ``latencies``.
        timeout: Seconds that a request may take, unless it says otherwise.
        connect_timeout: Seconds to try for until a server has described
            the model. By default 10, but 1 where nothing that speaks
            Triton's protocol answers; give a number where the server may
            still be starting.
        load_timeout: Seconds that a server may take to load the model;
            None if it must not be asked to.
        cast: Whether to convert arrays to the model's dtypes, unless a
            request says otherwise.
        ssl: Whether to speak TLS.
        root_certificates: PEM file to check the server's certificate with;
            the system's certificates by default.
        private_key: PEM file with this client's key, for mutual TLS.
        certificate_chain: PEM file with this client's certificate.
        headers: Headers of every call, such as an API key.
        token: Sent as ``Authorization: Bearer``; needs TLS, unless the
            server is on this machine.
        transport: The way to the server, or one for each; gRPC by default.

    Attributes:
        spec: The model as the server describes it.
        latencies: Seconds that each answered request of `predict`,
            `submit` and `infer` took, if ``profile`` is set.

    Raises:
        ServerUnavailable: If nothing answers at the address.
        DeadlineExceeded: If the server does not describe the model in time.
        ModelNotFound: If the server has no such model ready.
        UnsupportedModel: If the model has tensors that numpy cannot hold.
        InvalidRequest: If an argument is not what it should be.

    All methods may be called from several threads at once. Use it as a
    context manager, or call `close`; one that is forgotten is closed when
    all its requests have ended, with a ResourceWarning. A forked child makes
    its own.
    """

    def __init__(
        self,
        address: Address | Iterable[Address],
        model_name: str,
        model_version: int = -1,
        batch_size: int = 1,
        callback: Callback | None = None,
        profile: bool = False,
        *,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        load_timeout: float | None = 300.0,
        cast: bool = False,
        ssl: bool = False,
        root_certificates: str | None = None,
        private_key: str | None = None,
        certificate_chain: str | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        transport: Transport | Iterable[Transport] | None = None,
    ) -> None:
        check_numbers(model_version, batch_size)
        check_seconds(timeout=timeout)
        limits = {
            "connect_timeout": connect_timeout,
            "load_timeout": load_timeout,
        }
        check_seconds(**{k: v for k, v in limits.items() if v is not None})
        if callback is not None and not callable(callback):
            msg = f"callback={callback!r} is no function"
            raise InvalidRequest(msg)
        options = Options(
            ssl=ssl,
            root_certificates=root_certificates,
            private_key=private_key,
            certificate_chain=certificate_chain,
            headers=headers or {},
            token=token,
        )
        model = Model(
            model_name,
            None if model_version < 0 else model_version,
            load_timeout,
        )
        peers = Peers(open_peers(address, options, transport), model)
        try:
            spec = peers.meet(connect_timeout)
        except BaseException:
            for peer in peers.all:
                peer.transport.close()
            raise
        self.spec = spec
        self.latencies: list[float] = []
        self._link = Link(peers, timeout)
        if len(peers.all) > 1:
            self._link.start(peers.watch, "hermes-peers")
        self._cleaner = Cleaner(self._link, spec)
        self._singles = Singles(self._link, self.spec, self._cleaner)
        self._mailbox = Mailbox(callback)
        self._profile = profile
        self._cast = cast
        self._batch_size = batch_size if batch_size > 1 else None
        self._lock = threading.Lock()
        self._sequence_ids: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)  # not there if __init__ failed
        if link is not None:
            link.end_forgotten(self, self._say_forgotten, link.close)

    def __reduce__(self) -> NoReturn:
        msg = (
            "a client cannot be copied or sent to another process: make one"
            " there"
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return (
            f"InferenceClient({self.address!r}, {self.spec.name!r},"
            f" inputs={[*self.spec.inputs]}, outputs={[*self.spec.outputs]},"
            f" {self._state()})"
        )

    def _repr_html_(self) -> str:
        peers = self._link.peers.all
        rows = [(p.address, "good" if p.is_good else "lost") for p in peers]
        head = ("server", self._state())
        return table(rows, head=head) + self.spec._repr_html_()

    @property
    def address(self) -> str:
        """``"host:port"`` of the server; several with commas between."""
        return ",".join(peer.address for peer in self._link.peers.all)

    def predict(
        self,
        x: Input,
        timeout: float | None = None,
        *,
        outputs: Iterable[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        cast: bool | None = None,
    ) -> Output:
        """Send a request and wait for its answer; see `submit`.

        Returns:
            The output's array, or arrays by name if there are several.

        Raises:
            InvalidRequest: As `submit`; also in a Future's callback, whose
                thread is the one that the answer would come from.
        """
        if is_answering():
            msg = (
                "predict() in a callback would wait for itself: use submit()"
                " and another callback"
            )
            raise InvalidRequest(msg)
        return self.submit(
            x,
            timeout=timeout,
            outputs=outputs,
            parameters=parameters,
            cast=cast,
        ).result()

    def submit(
        self,
        x: Input,
        request_id: int | str | None = None,
        sequence_id: int | None = None,
        sequence_start: bool = False,
        sequence_end: bool = False,
        timeout: float | None = None,
        *,
        outputs: Iterable[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        cast: bool | None = None,
    ) -> Future[Output]:
        """Send a request.

        Args:
            x: The only input's array, or arrays by name. In place of a
                streaming input its parts may be given, by the names in
                ``spec.states``. Where the model's batch is fixed, fewer
                rows are filled up with zeros, and the answer is cut to as
                many.
            request_id: Names the request in errors.
            sequence_id: The sequence it belongs to; needed where the model
                keeps state. `sequence` takes care of all that concerns one.
            sequence_start: Whether it is the sequence's first request.
            sequence_end: Whether it is the sequence's last request.
            timeout: Seconds until the Future fails; the client's by default.
            outputs: Names of the outputs to answer with; all by default.
            parameters: Parameters that the model reads from its requests.
            cast: Whether to convert the arrays to the model's dtypes; the
                client's setting by default.

        Returns:
            A Future of the output's array, or of arrays by name if there
            are several. Its errors: `InferenceError` (the server refused
            or failed the request), `DeadlineExceeded`, `StreamBroken` and
            `ServerUnavailable` (the connection ended), `ClientClosed`; each
            with ``request_id``, ``sequence_id`` and ``server_message``. Its
            callbacks run in the thread that reads answers: one that waits
            for another answer waits in vain.

        Raises:
            InvalidRequest: If an input, an output or a parameter is
                missing or unknown, or the sequence's id is.
            ShapeMismatch: If an array has the wrong shape.
            DtypeMismatch: If an array has the wrong dtype.
            SequenceLost: If the sequence's connection has ended.
            StreamBroken: If the connection has just ended.
            ClientClosed: If the client is closed.
            ClientForked: If the client belongs to the parent process.
        """
        self._link.check_usable()
        check_sequence(self.spec, sequence_id)
        if timeout is not None:
            check_seconds(timeout=timeout)
        prepared = to_request(
            self.spec,
            x,
            cast=self._cast if cast is None else cast,
            batch_size=self._batch_size,
        )
        message = Message(
            about=About(self.spec.name, request_id, sequence_id),
            timeout=self._link.timeout if timeout is None else timeout,
            convert=partial(self._convert, prepared.rows, prepared.of),
        )
        self._singles.send(
            message,
            prepared.tensors,
            Numbered(int(sequence_id or 0), sequence_start, sequence_end),
            check_outputs(self.spec, outputs),
            check_parameters(parameters or {}),
        )
        return message.future

    def infer(
        self,
        x: Input,
        request_id: int | str | None = None,
        sequence_id: int | None = None,
        sequence_start: bool = False,
        sequence_end: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Send a request whose answer `get` returns; see `submit`."""
        future = self.submit(
            x,
            request_id,
            sequence_id,
            sequence_start,
            sequence_end,
            timeout,
        )
        deliver = partial(self._mailbox.deliver, request_id, sequence_id)
        future.add_done_callback(deliver)

    def get(self, until_empty: bool = False) -> Any:
        """Return an answer to `infer`, if there is one; does not wait.

        Args:
            until_empty: Whether to return a list of all that there are.

        Returns:
            ``(y, request_id, sequence_id)``, or what the callback made of
            it if that is not None; None if there is nothing.

        Raises:
            ClientError: In place of the answer that it ended; see `submit`.
            Exception: What the callback raised.
        """
        return self._mailbox.get_all() if until_empty else self._mailbox.get()

    def sequence(
        self,
        sequence_id: int | None = None,
        *,
        replay: bool = False,
        max_in_flight: int = 32,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        outputs: Iterable[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        cast: bool | None = None,
    ) -> Sequence:
        """Begin a sequence: requests that share state on the server.

        With ``replay=True`` it survives the server. When that dies, is
        restarted, has forgotten the sequence, or does not answer for
        ``stall_timeout``, a new sequence is begun there or on another
        server of the client's, the last ``spec.stream.replay_updates``
        updates are sent again, their answers dropped, and the stream goes
        on: complete, in order, without duplicates, and with the same bits
        on the same kind of hardware. It takes as long as the updates'
        timeouts allow, and the memory of that many updates.

        Args:
            sequence_id: What it is called in errors; to the server too if
                the model reads it. Random by default, and always random to
                a server whose model does not: no other client has it.
            replay: Whether to recover; see above.
            max_in_flight: Updates that wait for their answers at most.
            timeout: Seconds that each update may take; the client's by
                default.
            stall_timeout: Seconds without an answer after which a server is
                given up, with ``replay``; by default a third of
                ``timeout`` if there are other servers, and never if not.
            outputs: Names of the outputs to answer with; all by default.
            parameters: Parameters that the model reads from its requests.
            cast: Whether to convert arrays to the model's dtypes; the
                client's setting by default.

        Returns:
            The sequence, a context manager: leaving it ends the sequence.

        Raises:
            InvalidRequest: If the model keeps no state, the id is not
                between 1 and 2**63 - 1, another sequence of this client
                has it and has not ended, or an argument is out of range.
            ClientClosed: If the client is closed.
            ClientForked: If the client belongs to the parent process.
        """
        self._link.check_usable()
        self._check_stateful()
        limit = self._link.timeout if timeout is None else timeout
        check_seconds(timeout=limit)
        if stall_timeout is not None:
            check_seconds(stall_timeout=stall_timeout)
        check_max_in_flight(max_in_flight)
        if stall_timeout is None and len(self._link.peers.all) > 1:
            stall_timeout = limit / 3
        number = self._take_id(sequence_id)
        wire_id = number
        if sequence_id is not None and not self.spec.sees_sequence_id:
            wire_id = self._link.new_sequence_id()
        policy = Policy(
            max_in_flight=max_in_flight,
            replay=replay,
            stall_timeout=stall_timeout if replay else None,
            wire_id=wire_id,
            keeps_id=self.spec.sees_sequence_id,
            outputs=check_outputs(self.spec, outputs),
            parameters=check_parameters(parameters or {}),
        )
        return Sequence(
            self._link,
            self.spec,
            number,
            policy,
            self._cleaner,
            timeout=limit,
            cast=self._cast if cast is None else cast,
            on_end=partial(self._free_id, number),
        )

    def close(self) -> None:
        """End the connections; requests still in flight fail. Idempotent.

        Returns within a second. In a forked child it does nothing.
        """
        self._link.close()

    def _state(self) -> str:
        if self._link.is_closed:
            return "closed"
        return f"{len(self._link.in_flight)} pending"

    def _convert(
        self,
        rows: int | None,
        of: int | None,
        outputs: Mapping[str, npt.NDArray[Any]],
        seconds: float,
    ) -> Output:
        if self._profile:
            self.latencies.append(seconds)
        found = trim(outputs, rows, of)
        return next(iter(found.values())) if len(found) == 1 else found

    def _check_stateful(self) -> None:
        if not self.spec.is_stateful:
            msg = (
                f"model {self.spec.name!r} keeps no state between requests:"
                " use predict or submit"
            )
            raise InvalidRequest(msg)

    def _say_forgotten(self) -> str:
        name, address = self.spec.name, self.address
        return f"a client of {name!r} at {address} was not closed"

    def _free_id(self, sequence_id: int) -> None:
        # A method, so that a sequence keeps its client.
        self._sequence_ids.discard(sequence_id)

    def _take_id(self, sequence_id: int | None) -> int:
        if sequence_id is None:
            sequence_id = self._link.new_sequence_id()
        check_sequence(self.spec, sequence_id)
        with self._lock:
            if sequence_id in self._sequence_ids:
                msg = (
                    f"sequence {sequence_id} of this client has not ended:"
                    " end it, or leave sequence_id=None"
                )
                raise InvalidRequest(msg)
            self._sequence_ids.add(sequence_id)
        return int(sequence_id)
