"""Servers that are there: their addresses, and what can be done with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self, TypeVar
from urllib.parse import quote

from hermes.cloudbreak import _inference, manifests
from hermes.cloudbreak._access import POD, SERVICE, STATEFUL_SET, Access
from hermes.cloudbreak._deployments import Deployments
from hermes.cloudbreak._replicas import Endpoint, Ready, on_each
from hermes.cloudbreak._servers import Servers
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import (
    InvalidSpec,
    NotThere,
    ReplicasFailed,
    ResourceFailed,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, State
from hermes.cloudbreak.waiting import Clock, Pauses, insist

__all__ = ("TritonService",)

_T = TypeVar("_T")

_LOADING = 600.0
# Seconds that taking back a failed change may take.
_UNDOING = 120.0


class TritonService:
    """Servers that are ready. Use it as a context manager, or close it."""

    def __init__(
        self,
        spec: TritonSpec,
        access: Access,
        reconciler: Reconciler,
        clock: Clock,
        ready: Ready,
    ) -> None:
        self._spec = spec
        self._access = access
        self._reconciler = reconciler
        self._clock = clock
        self._cloud = Deployments(access)
        self._servers = Servers(spec, access, clock, ready)
        self._endpoint: Endpoint | None = None
        self._loaded: dict[str, None] = {}  # models, in order

    def __repr__(self) -> str:
        return f"<TritonService {self.name}, {self.replicas} replicas>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What the deployment is called."""
        return self._spec.name

    @property
    def key(self) -> Key:
        """Which resource it is."""
        return self._spec.key

    @property
    def replicas(self) -> int:
        """How many servers there are."""
        return len(self._servers.endpoints)

    @property
    def endpoint(self) -> Endpoint:
        """Whichever server is free; the first one with ``"port-forward"``.

        A gRPC stream stays on its server, single requests do not: sequences
        belong on one of `endpoints`.
        """
        return self._endpoint or self._servers.endpoints[0]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """One of each server; it outlives restarts of the server."""
        return tuple(self._servers.endpoints)

    def load_model(self, name: str, timeout: float = _LOADING) -> None:
        """Have every server load a model, or load it again.

        It takes ``model_control="explicit"``. New servers of `scale` load it,
        too; one that was started again has the models of its description
        only, until `restore_models` is called.

        Args:
            name: The model.
            timeout: Seconds that each server may take.

        Raises:
            ReplicasFailed: If some did not; it says which, and why.
        """
        try:
            self._on_all(
                f"load {name}", lambda e: _tell(e, name, "load", timeout)
            )
        except ReplicasFailed as error:
            if len(error.failed) < self.replicas:  # there is such a model
                self._loaded[name] = None
            raise
        self._loaded[name] = None

    def unload_model(self, name: str, timeout: float = _LOADING) -> None:
        """Have every server give up a model, as `load_model` loads it."""
        self._loaded.pop(name, None)
        self._on_all(
            f"unload {name}", lambda e: _tell(e, name, "unload", timeout)
        )

    def models(self, timeout: float = 30.0) -> dict[str, tuple[str, ...]]:
        """Say which models each server has ready, by the name of its pod.

        Raises:
            ReplicasFailed: If some do not answer; it says which, and why.
        """
        found: dict[Endpoint, tuple[str, ...]] = {}

        def ask(endpoint: Endpoint) -> None:
            listed = _inference.list_models(endpoint.http, timeout=timeout)
            found[endpoint] = tuple(listed)

        self._on_all("tell its models", ask)
        return {name: found[each] for name, each in self._named()}

    def restore_models(
        self, timeout: float = _LOADING
    ) -> dict[str, list[str]]:
        """Have servers that were started again load what they have lost.

        Args:
            timeout: Seconds that each model may take.

        Returns:
            What was loaded, by the name of the pod: nothing where nothing
            was lost.

        Raises:
            ReplicasFailed: If some did not; it says which, and why.
        """
        lost: dict[Endpoint, list[str]] = {}

        def restore(endpoint: Endpoint) -> None:
            lost[endpoint] = self._restore(endpoint, timeout)

        self._on_all("load what they have lost", restore)
        return {name: lost[e] for name, e in self._named() if lost[e]}

    def logs(self, num_lines: int = 100) -> dict[str, str]:
        """Give the end of each server's log, by the name of its pod."""
        return {
            name: self._access.logs(name, num_lines=num_lines)
            for name, _ in self._named()
        }

    def scale(
        self, replicas: int, timeout: float = 1800.0, drain: float = 60.0
    ) -> None:
        """Have so many servers.

        New ones are tested before they are among the `endpoints`. Those that
        have to go are taken out of the `endpoints` first, and end when they
        have been idle for a few seconds.

        Args:
            replicas: How many.
            timeout: Seconds until it has to be so.
            drain: Seconds after which servers that are not idle end, too;
                sequences on them are lost then.

        Raises:
            InvalidSpec: If it is no positive number.
            ResourceFailed: If a new one will not become ready; there are as
                many as before then.
            WaitTimeout: If one is not ready in time; likewise.
        """
        if replicas < 1:
            raise InvalidSpec(
                f"replicas={replicas!r} of {self.name}: give 1 or more, or "
                "close the service"
            )
        deadline = self._clock.now() + timeout
        there = self._find_size(deadline)
        self._servers.forget(there)
        if replicas < there:
            self._drain(replicas, there, drain, deadline)
        before = self.replicas
        if replicas > before:
            try:
                self._grow(before, replicas, deadline)
            except BaseException as error:
                self._undo(before, error)
                raise

    def close(self) -> None:
        """Delete it, and wait until it is gone.

        What was there before, and was used with ``exists_ok``, stays.

        Raises:
            StillThere: If it is not gone in time.
        """
        try:
            self._reconciler.take_down([self.key])
        finally:
            self.release()

    def release(self) -> None:
        """Close what is open on this machine; the servers stay."""
        self._servers.close()

    def settle(self, deadline: float) -> None:
        """Find the servers, and test them all."""
        self._servers.add(range(self._spec.replicas), deadline)
        self._endpoint = self._servers.find_everyone(deadline)

    def _named(self) -> list[tuple[str, Endpoint]]:
        names = self._servers.names(range(self.replicas))
        return list(zip(names, self._servers.reached, strict=False))

    def _on_all(self, what: str, work: Callable[[Endpoint], object]) -> None:
        failed = on_each(self._named(), lambda e, _: work(e))
        if failed:
            raise ReplicasFailed(
                f"{len(failed)} of {self.replicas} servers of {self.name} did "
                f"not {what}: "
                + "; ".join(f"{n}: {e}" for n, e in failed.items()),
                {name: str(error) for name, error in failed.items()},
            )

    def _restore(self, endpoint: Endpoint, timeout: float) -> list[str]:
        if not self._loaded:
            return []
        has = _inference.list_models(endpoint.http, timeout=timeout)
        lost = [each for each in self._loaded if each not in has]
        for each in lost:
            _tell(endpoint, each, "load", timeout)
        return lost

    def _grow(self, before: int, replicas: int, deadline: float) -> None:
        if self._spec.service == "load-balancer":
            self._insist(
                lambda: self._add_balancers(range(before, replicas)), deadline
            )
        self._resize(replicas, deadline)
        self._wait(deadline)
        self._servers.add(
            range(before, replicas),
            deadline,
            lambda e: self._restore(e, _LOADING),
        )

    def _add_balancers(self, indices: Iterable[int]) -> None:
        head = self._access.get(SERVICE, self.name)["metadata"]
        stamp = Stamp.read(head["labels"])
        if stamp is None:
            raise NotThere(f"{self.key} has lost its labels")
        for each in manifests.balancers(
            self._spec, stamp, head["uid"], indices
        ):
            self._cloud.ensure(each, head["uid"])

    def _undo(self, before: int, error: BaseException) -> None:
        self._servers.forget(before)
        try:
            self._shrink(before, self._clock.now() + _UNDOING)
        except Exception as trouble:  # noqa: BLE001 - the first one counts
            error.add_note(f"and afterwards: {trouble}")

    def _find_size(self, deadline: float) -> int:
        """Ask the cluster how many there are: a change may have failed."""
        try:
            found = self._insist(
                lambda: self._access.get(STATEFUL_SET, self.name), deadline
            )
        except NotThere as error:
            raise ResourceFailed(f"somebody has deleted {self.key}") from error
        return int(found["spec"]["replicas"])

    def _drain(
        self, replicas: int, there: int, seconds: float, deadline: float
    ) -> None:
        """Keep clients away from those that have to go, and let them end.

        If that fails, they are as they were.
        """
        servers = self._servers
        hidden = servers.endpoints[replicas:]
        names = servers.names(range(replicas, there))
        del servers.endpoints[replicas:]
        try:
            self._mark(names, "no", deadline)
            servers.wait_idle(replicas, self._clock.now() + seconds)
            self._shrink(replicas, deadline)
        except BaseException as error:
            if len(servers.reached) > replicas:
                servers.endpoints += hidden
                self._unmark(names, error)
            raise

    def _unmark(self, names: Iterable[str], error: BaseException) -> None:
        try:
            self._mark(names, "yes", self._clock.now() + _UNDOING)
        except Exception as trouble:  # noqa: BLE001 - the first one counts
            error.add_note(f"and afterwards: {trouble}")

    def _mark(self, pods: Iterable[str], is_it: str, deadline: float) -> None:
        """Have balancers choose pods, or not."""
        change = {"metadata": {"labels": {manifests.SERVING: is_it}}}
        for pod in pods:
            with contextlib.suppress(NotThere):
                self._insist(
                    partial(self._access.patch, POD, pod, change), deadline
                )

    def _shrink(self, replicas: int, deadline: float) -> None:
        """Have fewer, and none of their balancers, which cost money."""
        try:
            self._resize(replicas, deadline)
            self._servers.forget(replicas)
            self._trim(deadline)
        except BaseException as error:
            try:  # also after Ctrl-C: it may have come in between
                self._trim(self._clock.now() + _UNDOING)
            except Exception as trouble:  # noqa: BLE001 - the first one counts
                error.add_note(f"and afterwards: {trouble}")
            raise
        self._wait(deadline)

    def _trim(self, deadline: float) -> None:
        if self._spec.service == "load-balancer":
            self._insist(lambda: self._cloud.trim(self.key), deadline)

    def _resize(self, replicas: int, deadline: float) -> None:
        self._insist(
            lambda: self._access.scale(STATEFUL_SET, self.name, replicas),
            deadline,
        )

    def _wait(self, deadline: float) -> None:
        pauses = Pauses()
        while True:
            found = self._insist(lambda: self._cloud.find(self.key), deadline)
            if found is None or found.state is State.DELETING:
                raise ResourceFailed(f"somebody has deleted {self.key}")
            if found.state is State.BROKEN:
                raise ResourceFailed(f"{self.key}: {found.reason}")
            if found.state is State.READY:
                return
            if not pauses.wait(self._clock, deadline):
                raise WaitTimeout(f"{self.key} is not ready: {found.reason}")

    def _insist(self, ask: Callable[[], _T], deadline: float) -> _T:
        return insist(ask, self._clock, deadline)


def _tell(endpoint: Endpoint, model: str, verb: str, timeout: float) -> None:
    path = f"/v2/repository/models/{quote(model, '')}/{verb}"
    _inference.ask(endpoint.http, path, b"{}", timeout=timeout)
