"""The server's command line and environment."""

import pytest

from hermes.aeriel.errors import InvalidServeOption
from hermes.aeriel.serve._command import (
    ModelControl,
    Options,
    Ports,
    check_server_args,
    grace,
    server_command,
    server_environment,
)


def command(*server_args: str, backends: str | None = None) -> list[str]:
    options = Options(
        repositories=["/a b/models", "/c"],
        backend_directory=backends,
        address="127.0.0.1",
        ports=Ports(1, 2, 3),
        server_id="mine-1",
        shm_prefix="mine_",
        server_args=server_args,
    )
    return server_command(["run", "tritonserver"], options)


def test_everything_is_one_argument_each() -> None:
    found = command(backends="/b")
    assert found[:2] == ["run", "tritonserver"]
    assert {
        "--model-repository=/a b/models",
        "--model-repository=/c",
        "--backend-directory=/b",
        "--id=mine-1",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--http-port=1",
        "--grpc-port=2",
        "--metrics-port=3",
        "--backend-config=python,shm-region-prefix-name=mine_",
    } < set(found)


def test_the_servers_own_backends_are_its_default() -> None:
    assert not any("backend-directory" in word for word in command())


def test_arguments_of_the_user_come_after_the_defaults() -> None:
    found = command("--grpc-http2-max-ping-strikes=9", "--log-verbose", "1")
    assert found.index("--grpc-http2-max-ping-strikes=9") > found.index(
        "--grpc-http2-max-ping-strikes=0"
    )
    assert found[found.index("--log-verbose") + 1] == "1"


@pytest.mark.parametrize("given", [["--grpc-port=9"], ["--grpc-port", "9"]])
def test_ports_of_the_arguments_are_taken_over(given: list[str]) -> None:
    assert Ports().override(given) == Ports(8000, 9, 8002)
    assert not {*given, "9"} & set(command(*given, "--x"))
    assert "--x" in command(*given, "--x")


@pytest.mark.parametrize("value", ["x", "0", "65536", "-1", ""])
def test_a_port_is_a_number(value: str) -> None:
    with pytest.raises(InvalidServeOption, match="--http-port must be a port"):
        Ports().override([f"--http-port={value}"])


def test_ports_differ() -> None:
    with pytest.raises(InvalidServeOption, match="three different ports"):
        Ports().override(["--http-port=8001"])
    assert Ports(0, 0, 0).override([]) == Ports(0, 0, 0)


@pytest.mark.parametrize("given", ["--log-verbose=1", [1], [None]])
def test_arguments_are_a_sequence_of_strings(given: object) -> None:
    with pytest.raises(InvalidServeOption, match="sequence of strings"):
        check_server_args(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("--http-address=0.0.0.0", "use host="),
        ("--id", "use name="),
        ("--log-file=x", "use log_file="),
        ("--model-repository", "use model_repo_dir="),
        ("--allow-grpc=false", r"serve\(\) needs it"),
        ("--help", "that is to run"),
    ],
)
def test_arguments_that_a_keyword_decides_are_refused(
    given: str, instead: str
) -> None:
    with pytest.raises(InvalidServeOption, match=instead):
        check_server_args([given, "x"])


def test_arguments_are_handed_on() -> None:
    assert check_server_args(None) == ()
    assert check_server_args(["--a", "b"]) == ("--a", "b")


@pytest.mark.parametrize(
    ("control", "arguments"),
    [
        (ModelControl(), []),
        (ModelControl("explicit"), ["--model-control-mode=explicit"]),
        (
            ModelControl("poll", 2),
            ["--model-control-mode=poll", "--repository-poll-secs=2"],
        ),
    ],
)
def test_the_control_of_models_is_told(
    control: ModelControl, arguments: list[str]
) -> None:
    assert control.arguments() == arguments


def test_arguments_may_name_the_control_of_models() -> None:
    given = ["--x", "--model-control-mode", "explicit"]
    assert ModelControl().override(given) == ModelControl("explicit")
    assert ModelControl("explicit").override(given).mode == "explicit"
    assert ModelControl("poll").override([]) == ModelControl("poll")


def test_one_control_of_models_is_enough() -> None:
    with pytest.raises(InvalidServeOption, match="='poll' contradicts --mod"):
        ModelControl("poll").override(["--model-control-mode=explicit"])


def test_controls_of_models_are_known() -> None:
    with pytest.raises(InvalidServeOption, match="or 'poll', got 'all'"):
        ModelControl("all")


@pytest.mark.parametrize("given", [("none", 5), ("poll", 0)])
def test_only_who_polls_does_it_every_so_often(given: tuple[str, int]) -> None:
    with pytest.raises(InvalidServeOption, match=r"repository_poll_secs must"):
        ModelControl(*given)


def test_the_grace_exceeds_the_exit_timeout() -> None:
    assert grace([]) > 5
    assert grace(["--exit-timeout-secs=60"]) > 60
    with pytest.raises(InvalidServeOption, match="whole seconds, got 'x'"):
        grace(["--exit-timeout-secs", "x"])


def test_our_pythons_variables_do_not_reach_another_python() -> None:
    inherited = {"PYTHONPATH": "/poison", "HOME": "/me"}
    found = server_environment(inherited, {"A": "1"}, {}, isolate=True)
    assert found == {"HOME": "/me", "A": "1"}
    found = server_environment(inherited, {}, {}, isolate=False)
    assert found == inherited


def test_the_users_variables_win_but_paths_are_joined() -> None:
    changes = {"PATH": "/runtime", "LD_LIBRARY_PATH": "/lib", "A": "1"}
    extra = {"PATH": "/mine", "A": "2", "PYTHONPATH": "/wanted"}
    assert server_environment({}, changes, extra, isolate=True) == {
        "PATH": "/runtime:/mine",
        "LD_LIBRARY_PATH": "/lib",
        "A": "2",
        "PYTHONPATH": "/wanted",
    }
