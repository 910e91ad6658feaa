"""Servers that are there: their addresses, and what can be done with them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from threading import Event
from typing import Self, TypeVar
from urllib.parse import quote

from hermes.cloudbreak import _inference, manifests
from hermes.cloudbreak._access import POD, SERVICE, STATEFUL_SET, Access
from hermes.cloudbreak._deployments import Deployments, is_owned
from hermes.cloudbreak._forward import Forwarder
from hermes.cloudbreak._replicas import (
    Endpoint,
    Ready,
    endpoint_at,
    on_each,
    worst,
)
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    Refused,
    ReplicasFailed,
    ResourceFailed,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, State
from hermes.cloudbreak.waiting import Clock, Pauses

__all__ = ("TritonService",)

_T = TypeVar("_T")

# Seconds that one request of ours may take, where its deadline allows it.
_REQUEST = 30.0
_LOADING = 600.0
# Seconds that taking back a failed change may take.
_UNDOING = 120.0
# A server that has inferred nothing for so long has nothing left to do [s].
_QUIET = 3.0


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
        self._ready = ready
        self._cloud = Deployments(access)
        self._forwarders: list[Forwarder] = []
        self._reached: list[Endpoint] = []
        self._endpoints: list[Endpoint] = []
        self._endpoint: Endpoint | None = None

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
        return len(self._endpoints)

    @property
    def endpoint(self) -> Endpoint:
        """Whichever server is free; the first one with ``"port-forward"``.

        A gRPC stream stays on its server, single requests do not: sequences
        belong on one of `endpoints`.
        """
        return self._endpoint or self._endpoints[0]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """One of each server; it outlives restarts of the server."""
        return tuple(self._endpoints)

    def load_model(self, name: str, timeout: float = _LOADING) -> None:
        """Have every server load a model, or load it again.

        It takes ``model_control="explicit"``. A server that is restarted has
        the models of its description only.

        Args:
            name: The model.
            timeout: Seconds that each server may take.

        Raises:
            ReplicasFailed: If some did not; it says which, and why.
        """
        self._tell_all(name, "load", timeout)

    def unload_model(self, name: str, timeout: float = _LOADING) -> None:
        """Have every server give up a model, as `load_model` loads it."""
        self._tell_all(name, "unload", timeout)

    def logs(self, num_lines: int = 100) -> dict[str, str]:
        """Give the end of each server's log, by the name of its pod."""
        return {
            name: self._access.logs(name, num_lines=num_lines)
            for name in self._names(range(self.replicas))
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
        self._forget(there)
        if replicas < there:
            self._drain(replicas, there, drain, deadline)
        before = self.replicas
        if replicas > before:
            try:
                self._grow(before, replicas, deadline)
            except BaseException as error:
                self._undo(before, replicas, error)
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
        while self._forwarders:
            self._forwarders.pop().close()

    def settle(self, deadline: float) -> None:
        """Find the servers, and test them all."""
        self._check_settings(deadline)
        self._add(range(self._spec.replicas), deadline)
        everyone = f"{self.name}-all"
        if self._spec.service == "cluster":
            namespace = self._access.namespace
            self._endpoint = endpoint_at(f"{everyone}.{namespace}.svc")
        elif self._spec.service == "load-balancer":
            self._endpoint = endpoint_at(
                self._find_balancer(everyone, deadline)
            )

    def _check_settings(self, deadline: float) -> None:
        """Refuse what was there before, and is something else."""
        if self.key not in self._reconciler.adopted:
            return
        found = self._insist(
            lambda: self._access.get(SERVICE, self.name), deadline
        )
        annotations = found["metadata"].get("annotations") or {}
        had = json.loads(annotations.get(manifests.SETTINGS) or "{}")
        wanted = json.loads(manifests.settings(self._spec))
        different = sorted(
            name
            for name in had.keys() | wanted.keys()
            if had.get(name) != wanted.get(name)
        )
        if different:
            raise AlreadyThere(
                f"{self.key} is there with other settings: "
                + ", ".join(
                    f"{n}={had.get(n)!r}, not {wanted.get(n)!r}"
                    for n in different
                )
            )

    def _add(self, indices: Iterable[int], deadline: float) -> None:
        for index in indices:
            name = manifests.replica_name(self.name, index)
            if self._spec.service == "load-balancer":
                host = self._find_balancer(name, deadline)
                self._reached.append(endpoint_at(host))
            else:
                self._reached.append(self._forward(name))
        new = self._reached[len(self._endpoints) :]
        names = self._names(range(len(self._endpoints), len(self._reached)))
        failed = on_each(
            zip(names, new, strict=True),
            lambda e, stop: self._test(e, deadline, stop),
        )
        if failed:
            raise worst(failed)
        if self._spec.service == "cluster":
            within = f"{self.name}.{self._access.namespace}.svc"
            new = [endpoint_at(f"{name}.{within}") for name in names]
        self._endpoints += new

    def _forward(self, pod: str) -> Endpoint:
        made = Forwarder(
            lambda port: self._access.connect(pod, port), manifests.PORTS
        )
        self._forwarders.append(made)
        return Endpoint(**made.addresses)

    def _find_balancer(self, name: str, deadline: float) -> str:
        found = self._insist(lambda: self._access.get(SERVICE, name), deadline)
        (first, *_) = found["status"]["loadBalancer"]["ingress"]
        return str(first.get("ip") or first["hostname"])

    def _test(self, endpoint: Endpoint, deadline: float, stop: Event) -> None:
        pauses = Pauses()
        while not stop.is_set():
            try:
                self._ready(endpoint)
            except OSError as error:
                if refused := self._find_refusal(endpoint):
                    raise refused from error
                if not pauses.wait(self._clock, deadline):
                    raise WaitTimeout(
                        f"{self.key} does not infer: {error}"
                    ) from error
            else:
                return

    def _find_refusal(self, endpoint: Endpoint) -> Refused | None:
        """Tell why the cluster does not let us reach a server, ever."""
        forwarded = zip(self._reached, self._forwarders, strict=False)
        return next((f.refused for e, f in forwarded if e == endpoint), None)

    def _tell_all(self, model: str, verb: str, timeout: float) -> None:
        path = f"/v2/repository/models/{quote(model, '')}/{verb}"
        failed = on_each(
            zip(
                self._names(range(self.replicas)),
                self._reached[: self.replicas],
                strict=True,
            ),
            lambda e, _: _inference.ask(e.http, path, b"{}", timeout=timeout),
        )
        if failed:
            raise ReplicasFailed(
                f"{len(failed)} of {self.replicas} servers of {self.name} did "
                f"not {verb} {model}: "
                + "; ".join(f"{n}: {e}" for n, e in failed.items()),
                {name: str(error) for name, error in failed.items()},
            )

    def _grow(self, before: int, replicas: int, deadline: float) -> None:
        if self._spec.service == "load-balancer":
            self._insist(
                lambda: self._add_balancers(range(before, replicas)), deadline
            )
        self._resize(replicas, deadline)
        self._wait(deadline)
        self._add(range(before, replicas), deadline)

    def _add_balancers(self, indices: Iterable[int]) -> None:
        head = self._access.get(SERVICE, self.name)["metadata"]
        stamp = Stamp.read(head["labels"])
        if stamp is None:
            raise NotThere(f"{self.key} has lost its labels")
        for each in manifests.balancers(
            self._spec, stamp, head["uid"], indices
        ):
            self._cloud.ensure(each, head["uid"])

    def _undo(self, before: int, wanted: int, error: BaseException) -> None:
        self._forget(before)
        try:
            self._shrink(wanted, before, self._clock.now() + _UNDOING)
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
        going = self._reached[replicas:]
        hidden = self._endpoints[replicas:]
        names = self._names(range(replicas, there))
        del self._endpoints[replicas:]
        try:
            self._mark(names, "no", deadline)
            until = self._clock.now() + seconds
            on_each(
                zip(names, going, strict=False),
                lambda e, stop: self._wait_idle(e, until, stop),
            )
            self._shrink(there, replicas, deadline)
        except BaseException as error:
            if len(self._reached) > replicas:
                self._endpoints += hidden
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

    def _wait_idle(
        self, endpoint: Endpoint, deadline: float, stop: Event
    ) -> None:
        count = -1
        while self._clock.now() < deadline and not stop.is_set():
            before, count = (
                count,
                _inference.count_inferences(endpoint.http, timeout=_REQUEST),
            )
            if count == before:
                return
            self._clock.sleep(_QUIET)

    def _shrink(self, before: int, replicas: int, deadline: float) -> None:
        self._resize(replicas, deadline)
        self._forget(replicas)
        if self._spec.service == "load-balancer":
            self._insist(
                lambda: self._remove_balancers(range(replicas, before)),
                deadline,
            )
        self._wait(deadline)

    def _resize(self, replicas: int, deadline: float) -> None:
        self._insist(
            lambda: self._access.scale(STATEFUL_SET, self.name, replicas),
            deadline,
        )

    def _forget(self, replicas: int) -> None:
        """Let go of what is not there any more."""
        del self._reached[replicas:], self._endpoints[replicas:]
        for each in self._forwarders[replicas:]:
            each.close()
        del self._forwarders[replicas:]

    def _remove_balancers(self, indices: Iterable[int]) -> None:
        """Delete those that are ours, and no stranger's of that name."""
        head = self._access.get(SERVICE, self.name)["metadata"]
        for name in self._names(indices):
            with contextlib.suppress(NotThere):
                meta = self._access.get(SERVICE, name)["metadata"]
                if is_owned(meta, head["uid"]):
                    self._access.delete(SERVICE, name, uid=meta["uid"])

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
        """Ask, in spite of a cluster that does not answer for a while."""
        pauses = Pauses()
        while True:
            try:
                return ask()
            except CloudUnavailable:
                if not pauses.wait(self._clock, deadline):
                    raise

    def _names(self, indices: Iterable[int]) -> list[str]:
        return [manifests.replica_name(self.name, each) for each in indices]
