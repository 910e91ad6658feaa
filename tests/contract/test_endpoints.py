"""What serve() gives, the client takes: checked by mypy over this file too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.aeriel.endpoint import Endpoint, EndpointLike

if TYPE_CHECKING:
    from hermes.aeriel._transport import Transport
    from hermes.aeriel._triton import TritonTransport
    from hermes.aeriel.serve import Server, serve
    from hermes.cloudbreak.triton import TritonService
    from hermes.quiver import ModelRepository

    def producers_satisfy_consumers(
        server: Server,
        repository: ModelRepository,
        transport: TritonTransport,
        service: TritonService,
    ) -> None:
        """Nothing runs here: each line is a question to mypy."""
        _endpoint: EndpointLike = server.endpoint
        _shared: EndpointLike = service.endpoint
        _several: tuple[EndpointLike, ...] = service.endpoints
        _transport: Transport = transport
        serve(repository)


def test_every_producer_has_the_consumers_type() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", __file__],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_an_endpoint_survives_the_disk(tmp_path: Path) -> None:
    endpoint = Endpoint("node:8001", "node:8000", "node:8002")
    endpoint.save(tmp_path / "endpoint.json")
    found: EndpointLike = Endpoint.load(tmp_path / "endpoint.json")
    assert found == endpoint
