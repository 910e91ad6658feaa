"""What tests of programs that use Hermes are written with.

Nothing here needs a GPU, a container or a Triton: `FakeTriton` is a server
in this process that does what it is told, `FakeTransport` one without even a
network, and `FaultyProxy` stands between a client and any server. Fixtures
for pytest are in ``hermes.aeriel.testing.plugin``.
"""

from hermes.aeriel._transport import Request, Response
from hermes.aeriel.testing._engine import Received
from hermes.aeriel.testing._errors import InvalidFake
from hermes.aeriel.testing._fake import FakeTriton
from hermes.aeriel.testing._faults import (
    CloseStream,
    Drop,
    Duplicate,
    Expire,
    Fail,
    Fault,
    Freeze,
    Garble,
    Kill,
    Lose,
    Restart,
    Slow,
    Swap,
)
from hermes.aeriel.testing._models import FakeModel
from hermes.aeriel.testing._proxy import FaultyProxy
from hermes.aeriel.testing._transport import FakeConnection, FakeTransport

__all__ = (
    "CloseStream",
    "Drop",
    "Duplicate",
    "Expire",
    "Fail",
    "FakeConnection",
    "FakeModel",
    "FakeTransport",
    "FakeTriton",
    "Fault",
    "FaultyProxy",
    "Freeze",
    "Garble",
    "InvalidFake",
    "Kill",
    "Lose",
    "Received",
    "Request",
    "Response",
    "Restart",
    "Slow",
    "Swap",
)
