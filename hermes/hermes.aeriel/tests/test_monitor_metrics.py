"""What servers say about themselves, and what happened between two answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel.monitor._metrics import Gpu, NotMetrics, Reading, parse
from hermes.aeriel.monitor._rows import (
    Moment,
    Row,
    Watched,
    differences,
    rows,
)

TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="online",version="1"} 6
nv_inference_request_success{model="network",version="1"} 16
# HELP nv_inference_request_failure Number of failed inference requests
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="network",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="network",reason="OTHER",version="1"} 1
# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="online",version="1"} 6
nv_inference_count{model="network",version="1"} 64
# HELP nv_inference_exec_count Number of model executions performed
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="network",version="1"} 8
# HELP nv_inference_request_duration_us Cumulative duration in microseconds
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="network",version="1"} 198394
# HELP nv_inference_queue_duration_us Cumulative duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="network",version="1"} 474
# HELP nv_inference_compute_input_duration_us Cumulative duration
# TYPE nv_inference_compute_input_duration_us counter
nv_inference_compute_input_duration_us{model="network",version="1"} 407
# HELP nv_inference_compute_infer_duration_us Cumulative duration
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="network",version="1"} 193500
# HELP nv_inference_compute_output_duration_us Cumulative duration
# TYPE nv_inference_compute_output_duration_us counter
nv_inference_compute_output_duration_us{model="network",version="1"} 3962
# HELP nv_inference_pending_request_count Instantaneous number
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="network",version="1"} 5
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.25
"""
NETWORK = {
    "requests": 16,
    "failures": 3,
    "count": 64,
    "executions": 8,
    "request": 198394,
    "queue": 474,
    "compute_input": 407,
    "compute_infer": 193500,
    "compute_output": 3962,
}
GPUS = """\
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5
nv_gpu_utilization{gpu_uuid="GPU-b"} 1
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1.5e+09
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 5e+08
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 8589934592
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 8589934592
"""
MOMENT = Moment(1e9, 0.5, "here")
KEY = "m", "1"


def one(text: str, *, model="m", version=None) -> Row:
    (row,) = rows(Reading(), parse(text), MOMENT, [Watched(model, version)])
    return row


def test_every_counter_of_a_server_is_read():
    found = parse(TEXT)
    assert found.counters["network", "1"] == NETWORK
    assert found.counters["online", "1"] == {"requests": 6, "count": 6}
    assert found.pending == {("network", "1"): 5}
    assert found.gpus == {}


def test_a_row_has_the_differences_and_the_present_state():
    before = parse(TEXT)
    now = parse(TEXT.replace('k",version="1"} 64', 'k",version="1"} 72'))
    assert now != before
    (row,) = rows(before, now, MOMENT, [Watched("network")])
    nothing = dict.fromkeys(NETWORK, 0) | {"count": 8}
    assert row == Row(
        1e9, "here", "network", **nothing, interval=0.5, pending=5
    )


def test_labels_of_the_users_own_are_summed():
    text = (
        'nv_inference_count{model="m",version="1",site="A b",x="{\\"}"} 3\n'
        'nv_inference_count{version="1",site="B",model="m"} 4\n'
    )
    assert parse(text).counters == {KEY: {"count": 7}}


def test_a_model_on_two_gpus_is_one_model():
    text = (
        'nv_inference_count{gpu_uuid="GPU-a",model="m",version="1"} 3\n'
        'nv_inference_count{gpu_uuid="GPU-b",model="m",version="1"} 4\n'
    )
    row = one(text + GPUS)
    assert row.count == 7
    assert row.gpu_utilization == 0.75
    assert row.gpu_memory_used == 2 * 10**9
    assert row.gpu_memory_total == 2 * 2**33


def test_a_model_has_the_state_of_the_gpu_it_runs_on():
    text = 'nv_inference_count{gpu_uuid="GPU-b",model="m",version="1"} 3\n'
    assert parse(text + GPUS).gpus["GPU-b"] == Gpu(1.0, 5e8, 2**33)
    assert one(text + GPUS).gpu_utilization == 1
    assert one(text + GPUS).gpu_memory_used == 5 * 10**8


def test_a_model_that_names_no_gpu_has_the_state_of_all():
    text = 'nv_inference_count{model="m",version="1"} 3\n'
    assert one(text + GPUS).gpu_utilization == 0.75


def test_what_a_gpu_does_not_tell_is_unknown():
    text = 'nv_inference_count{model="m",version="1"} 3\n'
    gpu = 'nv_gpu_utilization{gpu_uuid="GPU-a"} NaN\n'
    assert one(text + gpu).gpu_utilization is None
    assert one(text + gpu).gpu_memory_used is None


def test_versions_are_summed_unless_one_is_asked_for():
    text = (
        'nv_inference_count{model="m",version="1"} 3\n'
        'nv_inference_count{model="m",version="12"} 4\n'
        'nv_inference_count{model="mm",version="1"} 5\n'
    )
    assert one(text).count == 7
    assert one(text, version=12).count == 4
    assert one(text, version=2).count == 0


def test_a_model_that_is_not_loaded_does_nothing():
    row = one("nv_cpu_utilization 0\n")
    assert (row.count, row.request, row.requests) == (0, 0, 0)
    assert row.pending is None


def test_a_family_that_the_server_leaves_out_is_unknown():
    row = one('nv_inference_count{model="m",version="1"} 3\n')
    assert row.count == 3
    assert row.queue is None
    assert row.requests is None


@pytest.mark.parametrize(
    "text", ["", "<html>", "up 1\n", 'nv_inference_count{model="m" 3\n']
)
def test_what_is_not_metrics_is_refused(text):
    with pytest.raises(NotMetrics, match="no metrics of Triton"):
        parse(text)


def test_a_restarted_server_counts_from_zero():
    before = Reading({KEY: {"count": 10, "queue": 500}})
    now = Reading({KEY: {"count": 12, "queue": 40}})
    assert differences(before, now) == {KEY: {"count": 12, "queue": 40}}


def test_a_model_that_was_unloaded_counts_from_zero():
    before = Reading({("other", "1"): {"count": 3}})
    now = Reading({KEY: {"count": 12}, ("other", "1"): {"count": 4}})
    assert differences(before, now) == {
        KEY: {"count": 12},
        ("other", "1"): {"count": 1},
    }


NUMBERS = st.fixed_dictionaries(
    {name: st.integers(0, 9) for name in ("count", "queue", "request")}
)


@given(st.lists(NUMBERS, min_size=1))
def test_no_difference_is_negative_whatever_the_counters_do(course):
    readings = [Reading({KEY: numbers}) for numbers in course]
    for before, now in pairwise(readings):
        found = differences(before, now)[KEY]
        assert all(value >= 0 for value in found.values())


@given(st.lists(NUMBERS))
def test_differences_add_up_to_the_counters(steps):
    total = dict.fromkeys(("count", "queue", "request"), 0)
    sums = dict(total)
    before = Reading({KEY: dict(total)})
    for step in steps:
        total = {name: total[name] + step[name] for name in total}
        now = replace(before, counters={KEY: total})
        for name, value in differences(before, now)[KEY].items():
            sums[name] += value
        before = now
    assert sums == total
