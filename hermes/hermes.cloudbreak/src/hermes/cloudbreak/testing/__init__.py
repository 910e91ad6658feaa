"""A cloud in memory, for tests of programs that use one, and of clouds."""

from hermes.cloudbreak.testing._clock import FakeClock
from hermes.cloudbreak.testing._fake import FakeCloud, Fault, Killed
from hermes.cloudbreak.testing._suite import CloudSuite

__all__ = ("CloudSuite", "FakeClock", "FakeCloud", "Fault", "Killed")
