"""K1: 64 virtual machines against one: calls, rounds of waiting, seconds.

A swarm is brought up and taken down on the Compute Engine of the tests, which
checks each call against Google's own description of its interface. Each call
takes 0.2 s, a machine 30 s to run and 20 s to be gone; time goes only where
somebody waits, so the figures are the same everywhere.

Prints for each number of machines the calls, the rounds of waiting and the
seconds of both ways, and the ratios to one machine.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from _common import circumstances, make_parser, write_json
from google.auth.credentials import AnonymousCredentials

from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.testing import FakeClock

sys.path.insert(
    0, str(Path(__file__).parents[1] / "tests/integration/clouds/vms")
)

from compute_server import Compute

CALL_SECONDS = 0.2
SWARM = google.VMDescription("swarm", zones=("us-central1-a",))


def measure(num_vms: int) -> dict[str, Any]:
    """Bring a swarm up, and take it down."""
    time = FakeClock()
    compute = Compute(time.clock.today)
    answer = compute.handle

    def delayed(*request: Any) -> dict[str, Any]:
        time.advance(CALL_SECONDS)
        return answer(*request)

    compute.handle = delayed
    spec = replace(SWARM, num_vms=num_vms)
    figures = {}
    try:
        with google.ComputeCloud(
            "project",
            AnonymousCredentials(),
            endpoint=compute.endpoint,
            clock=time.clock,
        ) as cloud:
            stamp = Stamp("k1", "k1", int(time.clock.today()) + 7200)
            run = Reconciler(cloud, stamp, clock=time.clock)
            for way, go in {
                "up": lambda: run.bring_up([spec], 600),
                "down": lambda: run.take_down([spec.key]),
            }.items():
                calls, sleeps = len(compute.calls), time.num_sleeps
                begin = time.clock.now()
                go()
                found = num_vms if way == "up" else 0
                assert len(compute.names) == found  # noqa: S101
                figures[way] = {
                    "calls": Counter(compute.calls[calls:]),
                    "rounds": time.num_sleeps - sleeps,
                    "seconds": time.clock.now() - begin,
                }
    finally:
        compute.close()
    return figures


def main() -> int:
    """Run, print, write."""
    arguments = make_parser(__doc__ or "", rounds=1).parse_args()
    load, cores = os.getloadavg()[0], os.sched_getaffinity(0)
    cases = {number: measure(number) for number in (1, 64)}
    for number, ways in cases.items():
        for way, each in ways.items():
            one = cases[1][way]
            num_calls = each["calls"].total()
            print(
                f"{number:3} {way:<4} {num_calls:4} calls"
                f" {each['rounds']:3} rounds {each['seconds']:6.1f} s"
                f"   {num_calls / one['calls'].total():5.1f}"
                f" {each['rounds'] / one['rounds']:5.1f}"
                f" {each['seconds'] / one['seconds']:5.1f} times one's  "
                + ", ".join(f"{n} {name}" for name, n in each["calls"].items())
            )
    write_json(
        arguments.json, circumstances(1, cores, load) | {"cases": cases}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
