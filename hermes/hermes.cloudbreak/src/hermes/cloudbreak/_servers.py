"""The servers of a deployment, as they are reached from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event

from hermes.cloudbreak import _inference, manifests
from hermes.cloudbreak._access import SERVICE, Access
from hermes.cloudbreak._forward import Forwarder
from hermes.cloudbreak._replicas import (
    Endpoint,
    Ready,
    endpoint_at,
    on_each,
    worst,
)
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import Refused, WaitTimeout
from hermes.cloudbreak.waiting import Clock, Pauses, insist

__all__ = ("Servers",)

# Seconds that one request of ours may take, where its deadline allows it.
_REQUEST = 30.0
# A server that has inferred nothing for so long has nothing left to do [s].
_QUIET = 3.0


class Servers:
    """Those that are there and infer, in order.

    Args:
        spec: What is deployed.
        access: The cluster.
        clock: The time.
        ready: Tests one of them.

    Attributes:
        reached: Where each is reached from here.
        endpoints: Where clients reach those that they may use.
    """

    def __init__(
        self, spec: TritonSpec, access: Access, clock: Clock, ready: Ready
    ) -> None:
        self._spec = spec
        self._access = access
        self._clock = clock
        self._ready = ready
        self._forwarders: list[Forwarder] = []
        self.reached: list[Endpoint] = []
        self.endpoints: list[Endpoint] = []

    def names(self, indices: Iterable[int]) -> list[str]:
        """Give the names of replicas."""
        name = self._spec.name
        return [manifests.replica_name(name, each) for each in indices]

    def add(
        self,
        indices: Iterable[int],
        deadline: float,
        prepare: Callable[[Endpoint], object] | None = None,
    ) -> None:
        """Reach more of them, and wait until each infers.

        Args:
            indices: Which.
            deadline: Until when.
            prepare: What is done with each before it is tested; an `OSError`
                means not yet.

        Raises:
            ResourceFailed: If one will not infer.
            WaitTimeout: If one does not in time.
        """
        for name in self.names(indices):
            if self._spec.service == "load-balancer":
                host = self.find_balancer(name, deadline)
                self.reached.append(endpoint_at(host))
            else:
                self.reached.append(self._forward(name))
        new = self.reached[len(self.endpoints) :]
        names = self.names(range(len(self.endpoints), len(self.reached)))
        failed = on_each(
            zip(names, new, strict=True),
            lambda e, stop: self._test(e, deadline, stop, prepare),
        )
        if failed:
            raise worst(failed)
        if self._spec.service == "cluster":
            within = f"{self._spec.name}.{self._access.namespace}.svc"
            new = [endpoint_at(f"{name}.{within}") for name in names]
        self.endpoints += new

    def find_everyone(self, deadline: float) -> Endpoint | None:
        """Find where clients reach whichever is free."""
        everyone = f"{self._spec.name}-all"
        if self._spec.service == "cluster":
            return endpoint_at(f"{everyone}.{self._access.namespace}.svc")
        if self._spec.service == "load-balancer":
            return endpoint_at(self.find_balancer(everyone, deadline))
        return None

    def find_balancer(self, name: str, deadline: float) -> str:
        """Find the address of a load balancer."""
        found = insist(
            lambda: self._access.get(SERVICE, name), self._clock, deadline
        )
        (first, *_) = found["status"]["loadBalancer"]["ingress"]
        return str(first.get("ip") or first["hostname"])

    def wait_idle(self, first: int, deadline: float) -> None:
        """Wait until those from one on have nothing left to do."""
        names = self.names(range(first, len(self.reached)))
        on_each(
            zip(names, self.reached[first:], strict=True),
            lambda e, stop: self._wait_idle(e, deadline, stop),
        )

    def forget(self, replicas: int) -> None:
        """Let go of what is not there any more."""
        del self.reached[replicas:], self.endpoints[replicas:]
        for each in self._forwarders[replicas:]:
            each.close()
        del self._forwarders[replicas:]

    def close(self) -> None:
        """Close what is open on this machine; the servers stay."""
        while self._forwarders:
            self._forwarders.pop().close()

    def _forward(self, pod: str) -> Endpoint:
        made = Forwarder(
            lambda port: self._access.connect(pod, port), manifests.PORTS
        )
        self._forwarders.append(made)
        return Endpoint(**made.addresses)

    def _test(
        self,
        endpoint: Endpoint,
        deadline: float,
        stop: Event,
        prepare: Callable[[Endpoint], object] | None,
    ) -> None:
        pauses = Pauses()
        while not stop.is_set():
            try:
                if prepare is not None:
                    prepare(endpoint)
                self._ready(endpoint)
            except OSError as error:
                if refused := self._find_refusal(endpoint):
                    raise refused from error
                if not pauses.wait(self._clock, deadline):
                    raise WaitTimeout(
                        f"{self._spec.key} does not infer: {error}"
                    ) from error
            else:
                return

    def _find_refusal(self, endpoint: Endpoint) -> Refused | None:
        """Tell why the cluster does not let us reach a server, ever."""
        forwarded = zip(self.reached, self._forwarders, strict=False)
        return next((f.refused for e, f in forwarded if e == endpoint), None)

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
