"""Triton on a Kubernetes cluster, whoever the cluster is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from hermes.cloudbreak._access import Access
from hermes.cloudbreak._deployments import Deployments
from hermes.cloudbreak._replicas import Endpoint, Ready, infer_zeros
from hermes.cloudbreak._service import TritonService
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import AlreadyThere, InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key
from hermes.cloudbreak.waiting import Clock, finish

__all__ = ("Deployer", "Endpoint", "TritonService", "infer_zeros")


class Deployer:
    """A cluster, as far as Triton is concerned.

    Args:
        access: The cluster.
        stamp: What everything that is deployed carries.
        clock: The time.
        report: Called with what is waited for, whenever that has changed.
        deletion_timeout: Seconds until something has to be gone.
    """

    def __init__(
        self,
        access: Access,
        stamp: Stamp,
        *,
        clock: Clock | None = None,
        report: Callable[[Mapping[Key, str]], object] | None = None,
        deletion_timeout: float = 1200.0,
    ) -> None:
        self._access = access
        self._clock = clock or Clock()
        self._reconciler = Reconciler(
            Deployments(access),
            stamp,
            clock=self._clock,
            report=report,
            deletion_timeout=deletion_timeout,
            prunes=False,
        )
        self._services: list[TritonService] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._access.server}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deploy_triton(
        self,
        repository: str,
        name: str = "triton",
        *,
        ready: Ready = infer_zeros,
        timeout: float = 1800.0,
        **settings: Any,
    ) -> TritonService:
        """Have Triton serve a repository, and wait until it infers.

        Whatever goes wrong, also Ctrl-C: what was created is deleted before
        the error is raised. What an earlier program of the same run has left
        is changed to these settings, server by server.

        Args:
            repository: Where the models are, as the servers see it.
            name: What the deployment is called.
            ready: Called with each server's `Endpoint`, from a thread each,
                until it returns: an `OSError` (`ConnectionError`,
                `TimeoutError`) means not yet, anything else never.
            timeout: Seconds until all of them have to be ready.
            **settings: Anything else of `TritonSpec`: ``replicas``, ``gpus``,
                ``image``, ``service``, ...

        Raises:
            InvalidSpec: If the settings make no deployment.
            AlreadyThere: If the name is taken, or what is there cannot be
                changed to these settings.
            CloudError: If the cluster refuses it.
            ResourceFailed: If a server will not become ready; it says why.
            WaitTimeout: If one is not ready in time; likewise.
            StillThere: If after an error something could not be deleted.
        """
        try:
            spec = TritonSpec(name, repository, **settings)
        except TypeError as error:
            raise InvalidSpec(f"deploy_triton: {error}") from None
        if spec.key in self._reconciler.keys:
            raise AlreadyThere(
                f"this program has deployed {spec.key}: give another name, or "
                "close it first"
            )
        made = TritonService(
            spec, self._access, self._reconciler, self._clock, ready
        )
        try:
            self._reconciler.bring_up([spec], timeout, made.settle)
        except BaseException:
            made.release()
            raise
        self._services.append(made)
        return made

    def close(self) -> None:
        """Delete everything that was deployed, and wait until it is gone.

        That is also what an earlier program of the same run has left. It goes
        on after one Ctrl-C, and gives up after the second.

        Raises:
            StillThere: If something is not gone in time.
        """
        try:
            finish(self._reconciler.take_everything_down)
        finally:
            for each in self._services:
                each.release()
            self._access.close()
