"""A program that brings up a cluster with a pool, forked for each line.

Importing GKE's client takes seconds, and a test needs a fresh process for each
call at which one is killed; none has called anything before the fork.
"""

import os
import sys
import time
import traceback

from google.auth.credentials import AnonymousCredentials

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._outliving import Outliving
from hermes.cloudbreak.waiting import Clock

MANAGER = google.ClusterManager  # imported now


def main() -> None:
    """Fork for each line: ``endpoint``; say the child's pid, then its end."""
    for line in sys.stdin:
        ready, go = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(go)
            # Only now: an interrupt inside os.fork() would be dropped.
            print(os.getpid(), flush=True)
            os.read(ready, 1)
            try:
                run(line.strip())
            except KeyboardInterrupt:
                os._exit(130)
            except Exception:  # noqa: BLE001 - its parent is not to go on
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(ready)
        sys.stdin.readline()  # it is known now
        os.write(go, b"x")
        _, status = os.waitpid(pid, 0)
        os.close(go)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(endpoint: str) -> None:
    """Bring up, and take down."""
    with MANAGER(
        "us-central1-a",
        "test-project",
        owner="victim",
        credentials=AnonymousCredentials(),
        api_endpoint=endpoint,
        clock=Clock(  # fifty times as fast
            now=lambda: time.monotonic() * 50,
            sleep=lambda seconds: time.sleep(seconds / 50),
        ),
    ) as manager:
        # The cluster is nowhere, and nothing is in it.
        manager._cloud._emptying._remove = lambda _: Outliving()
        cluster = manager.add(google.Cluster("main"))
        cluster.add(google.NodePool("cpus"))


if __name__ == "__main__":
    main()
