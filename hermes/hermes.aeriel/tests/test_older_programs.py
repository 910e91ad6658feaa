"""Names and order of arguments that programs for the older package type."""

from __future__ import annotations

import inspect

from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.serve import serve


def test_serve_takes_its_arguments_in_the_known_order() -> None:
    names = [*inspect.signature(serve).parameters]
    assert names[:8] == [
        "model_repo_dir",
        "image",
        "name",
        "gpus",
        "server_args",
        "log_file",
        "wait",
        "free_ports",
    ]


def test_the_monitor_takes_its_arguments_in_the_known_order() -> None:
    parameters = inspect.signature(ServerMonitor).parameters
    assert [*parameters][:9] == [
        "model_name",
        "ips",
        "filename",
        "model_version",
        "max_request_rate",
        "name",
        "rate",
        "grpc_port",
        "metrics_port",
    ]
    defaults = [parameter.default for parameter in parameters.values()]
    assert defaults[3:9] == [-1, 10, "monitor", None, 8001, 8002]
