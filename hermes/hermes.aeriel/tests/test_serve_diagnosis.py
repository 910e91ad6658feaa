"""Why a server did not come up, from what it wrote."""

import pytest

from hermes.aeriel.serve._diagnosis import (
    describe_death,
    describe_delay,
    has_answered_all,
    has_given_up,
    lost_port,
    stub_failure,
    tail,
)

MODEL = (
    "E1122 1 2 model_lifecycle.cc:642] \"failed to load 'net' version 1: "
    'Internal: LoadError: bad file\\n\\nAt:\\n  /x/model.py(1): f\\n"\n'
)
TABLE = "+-----+\n| a   |\n+-----+\n\n"


def test_what_a_server_says_while_it_stops_is_understood() -> None:
    waiting = 'server.cc:305] "Waiting for in-flight requests to complete."\n'
    assert not has_answered_all(waiting)
    unloading = 'server.cc:336] "All models are stopped, unloading models"\n'
    assert has_answered_all(waiting + unloading)
    assert not has_given_up(waiting + unloading)
    assert has_given_up(
        'main.cc:535] "failed to stop server: Internal - Exit timeout expired.'
        ' Exiting immediately."\n'
    )


def test_the_ending_is_told() -> None:
    assert "s ended with exit code 1" in describe_death("s", 1, "")
    assert "was ended by SIGKILL" in describe_death("s", 137, "")
    assert "was ended by signal 99" in describe_death("s", 227, "")
    assert "s cannot become ready" in describe_death("s", None, "")


def test_the_failing_model_is_told_without_frames_of_python() -> None:
    lines = describe_death("s", 1, MODEL).splitlines()
    assert lines[1] == (
        "model 'net' failed to load: Internal: LoadError: bad file"
    )


def test_the_same_reason_is_told_once() -> None:
    text = describe_death("s", 1, MODEL + MODEL)
    assert text.count("model 'net' failed to load") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('"failed to start HTTP service: Socket"', "failed to start HTTP ser"),
        ("Poll failed for model directory 'a': b", "Poll failed for model"),
        ("Error parsing text-format x: 1:6: y", "Error parsing text-format x"),
        ("/x/tritonserver: unrecognized option '-q'", "unrecognized option"),
        ("error: creating server: Internal - x", "error: creating server"),
        ("FATAL:   no such image", "FATAL:   no such image"),
        ("_: line 1: tritonserver: command not found", "tritonserver: comm"),
    ],
)
def test_what_triton_calls_the_reason_is_told(line: str, told: str) -> None:
    assert told in describe_death("s", 1, line + "\n").splitlines()[1]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Socket '127.0.0.1:80' already in use", "use free_ports=True"),
        ("x: error while loading shared libraries: y", "serve status"),
        ("unable to find backend library for backend 'a'", "no backend for"),
        ("ModuleNotFoundError: No module named 'x'", "lacks a package"),
        ("No space left on device", "shm full?"),
        ("Bad option: x", "see server_args"),
        ("CUDA driver version is insufficient for CUDA", "too old for this"),
        (
            "I1 loading\nE1 CUDA driver version is insufficient for CUDA\n",
            "too old for this",
        ),
        ("no CUDA-capable device is detected", "the server found no GPU"),
        (
            "The engine plan file is generated on an incompatible device",
            "a plan runs only on the kind of GPU",
        ),
        ("x: cannot execute binary file: Exec format error", "another kind"),
        ("FATAL:   image targets 'arm64', cannot run on 'amd64'", "another k"),
        ("_: line 11: tritonserver: command not found", "the image must hold"),
        ("FATAL:   kernel reported a bad superblock", "image is damaged"),
        ("FATAL:   could not create user namespace", "let you start cont"),
        ("/lib/libm.so.6: version `GLIBC_2.38' not found", "serve status"),
    ],
)
def test_common_causes_have_a_hint(line: str, hint: str) -> None:
    assert hint in describe_death("s", 1, line)


@pytest.mark.parametrize(
    "line",
    [
        "/x/triton_python_backend_stub: error while loading shared libs",
        "bash: -c: line 1: unexpected EOF while looking for matching `''",
        "bash: line 1: /x/triton_python_backend_stub: Permission denied",
        "Fatal Python error: init_fs_encoding: failed",
    ],
)
def test_a_stub_that_cannot_start_is_found(line: str) -> None:
    log = f"I1 loading\n{line}\nI2 more\n"
    assert stub_failure(log) == line
    assert f"did not start: {line}" in describe_death("s", None, log)


def test_an_ordinary_log_has_no_stub_failure() -> None:
    locale = "bash: warning: setlocale: LC_ALL: cannot change locale\n"
    assert stub_failure(MODEL + TABLE + locale) is None


def test_the_end_is_told_without_tables_and_help() -> None:
    log = "first\n" + TABLE + "\thelp\n  --option\n" + "x" * 999 + "\nlast\n"
    assert tail(log, lines=2, width=10) == "xxxxxxxxxx\nlast"
    assert tail(log).splitlines()[0] == "first"


def test_a_delay_is_told_with_its_reason() -> None:
    told = describe_delay("s", 1.5, MODEL).splitlines()
    assert told[0] == "s was not ready within 1.5 s"
    assert told[1].startswith("model 'net' failed to load")


@pytest.mark.parametrize(
    "line",
    [
        "failed to start HTTP service: Socket '1.2.3.4:5' already in use",
        "bind: Address already in use",
    ],
)
def test_a_lost_port_is_recognised(line: str) -> None:
    assert lost_port(f"I1 loading\n{line}\n")
    assert not lost_port(MODEL)


def test_what_is_said_without_a_gpu_is_no_reason() -> None:
    log = (
        "W1 pinned_memory_manager.cc:273] Unable to allocate pinned system "
        "memory, pinned memory pool will not be available: CUDA driver "
        "version is insufficient for CUDA runtime version\n"
        "E1 ensemble_scheduler.cc:1468] unable to create stream for a: CUDA "
        "driver version is insufficient for CUDA runtime version\n"
    )
    assert "hint" not in describe_death("it", 139, log)
