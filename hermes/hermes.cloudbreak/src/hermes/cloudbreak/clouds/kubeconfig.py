"""Any Kubernetes cluster that is there already: no provisioning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from hermes.cloudbreak._access import Access
from hermes.cloudbreak._deployments import Deployments
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.specs import Key
from hermes.cloudbreak.triton import Deployer
from hermes.cloudbreak.waiting import Clock

__all__ = ("Cluster",)


class Cluster(Deployer):
    """A namespace of a cluster. Use it as a context manager.

    Leaving it deletes what was deployed through it, and nothing else.

    Args:
        kubeconfig: How to reach the cluster, as ``kubectl`` does: KUBECONFIG,
            else ``~/.kube/config``, if None.
        context: Which of the file's contexts; its current one if None.
        namespace: The namespace; that of the context if None.
        owner: Who answers for what is deployed; who runs this if None.
        run: What this run is called; something unique if None. Whoever has
            the same owner and run goes on with it: what is there already is
            changed where it can be, and the first that is left deletes all.
        lifetime: Seconds after which `reap` may delete what is deployed.
        clock: The time.
        report: Called with what is waited for, whenever that has changed.

    Raises:
        InvalidSpec: If there is no such file or context.
    """

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        namespace: str | None = None,
        *,
        owner: str | None = None,
        run: str | None = None,
        lifetime: float = 24 * 3600.0,
        clock: Clock | None = None,
        report: Callable[[Mapping[Key, str]], object] | None = None,
    ) -> None:
        clock = clock or Clock()
        stamp = Stamp.make(owner, run, clock.today() + lifetime)
        access = Access.from_kubeconfig(kubeconfig, context, namespace)
        super().__init__(access, stamp, clock=clock, report=report)

    def reap(
        self,
        owner: str | None = None,
        *,
        older_than: float | None = None,
        dry_run: bool = False,
        timeout: float = 1200.0,
    ) -> list[Key]:
        """Delete deployments in the namespace that have expired.

        Args:
            owner: Whose; None for everybody's.
            older_than: Also those created more than so many seconds ago.
            dry_run: Whether to tell only.
            timeout: Seconds until they have to be gone.

        Returns:
            Which.

        Raises:
            StillThere: If they are not gone in time.
        """
        return reap(
            Deployments(self._access),
            owner,
            older_than=older_than,
            dry_run=dry_run,
            timeout=timeout,
            clock=self._clock,
        )
