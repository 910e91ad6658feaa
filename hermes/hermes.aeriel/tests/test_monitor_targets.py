"""Which servers, models and options are meant."""

from __future__ import annotations

import pytest

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import InvalidMonitorOption
from hermes.aeriel.monitor import ServerMonitor
from hermes.aeriel.monitor._options import make_subject
from hermes.aeriel.monitor._polling import Pace
from hermes.aeriel.monitor._rows import Watched
from hermes.aeriel.monitor._targets import Target, expand, find_targets

OPTIONS = {
    "model_version": -1,
    "max_request_rate": 10,
    "rate": None,
    "grpc_port": 8001,
    "metrics_port": 8002,
    "grace": 30,
}


@pytest.mark.parametrize(
    ("ip", "metrics", "grpc"),
    [
        ("10.0.0.1", "10.0.0.1:8002", "10.0.0.1:8001"),
        ("node.site:9002", "node.site:9002", "node.site:8001"),
        ("::1", "[::1]:8002", "[::1]:8001"),
        ("[::1]", "[::1]:8002", "[::1]:8001"),
        ("[::1]:9", "[::1]:9", "[::1]:8001"),
    ],
)
def test_a_host_has_tritons_ports_unless_it_names_its_own(ip, metrics, grpc):
    assert find_targets(ip, 8001, 8002) == (Target(ip, metrics, grpc),)


def test_an_endpoint_has_its_own_ports():
    endpoint = Endpoint("a:1", "a:2", "a:3")
    assert find_targets(endpoint, 8001, 8002) == (Target("a:3", "a:3", "a:1"),)
    found = find_targets(["b", endpoint], 5, 6)
    assert [target.metrics for target in found] == ["b:6", "a:3"]


@pytest.mark.parametrize(
    "ips",
    [[], ["a", "a"], ["a", "a:8002"], "", "a:0", "a:b", "http://a", [3], None],
)
def test_what_is_no_server_is_refused(ips):
    with pytest.raises(InvalidMonitorOption, match="server"):
        find_targets(ips, 8001, 8002)


def test_an_ensemble_is_its_steps_and_theirs():
    def ensemble(*steps):
        found = [{"model_name": n, "model_version": v} for n, v in steps]
        return {"ensemble_scheduling": {"step": found}}

    configs = {
        "whole": ensemble(("first", "-1"), ("inner", "-1"), ("last", "3")),
        "inner": ensemble(("first", "-1"), ("middle", "-1")),
    }
    asked = []

    def config(name, _version):
        asked.append(name)
        return configs.get(name, {})

    assert expand("whole", None, config) == (
        Watched("whole", None, True),
        Watched("first"),
        Watched("inner", None, True),
        Watched("middle"),
        Watched("last", 3),
    )
    assert len(asked) == 5
    assert expand("first", 2, config) == (Watched("first", 2),)


@pytest.mark.parametrize(
    ("rate", "most", "interval"),
    [(None, 10, 0.1), (2, 10, 0.5), (50, 10, 0.1), (None, 0.5, 2)],
)
def test_servers_are_not_polled_faster_than_allowed(rate, most, interval):
    options = {**OPTIONS, "rate": rate, "max_request_rate": most}
    subject = make_subject("m", "a", **options)
    assert subject.pace == Pace(interval, 1 / most, 5)


def test_version_minus_one_is_every_version():
    assert make_subject("m", "a", **OPTIONS).version is None
    options = {**OPTIONS, "model_version": 4}
    assert make_subject("m", "a", **options).version == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model_name", ""),
        ("model_version", 0),
        ("model_version", "1"),
        ("max_request_rate", 0),
        ("rate", -1),
        ("rate", "fast"),
        ("grace", float("inf")),
        ("ips", []),
    ],
)
def test_an_option_that_cannot_work_is_refused(option, value, tmp_path):
    arguments = {"model_name": "m", "ips": "a", "filename": tmp_path / "f.csv"}
    with pytest.raises(InvalidMonitorOption, match=option):
        ServerMonitor(**{**arguments, option: value})


def test_older_programs_give_their_arguments_by_position(tmp_path):
    monitor = ServerMonitor("m", ["a", "b"], tmp_path / "f", 2, 5, "mine", 1)
    assert monitor.name == "mine"
    assert repr(monitor) == (
        f"<ServerMonitor m on a, b to {tmp_path / 'f'}, not started>"
    )
    monitor.check()
    monitor.stop()
