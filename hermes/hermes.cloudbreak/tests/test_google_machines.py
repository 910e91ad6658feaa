"""Which machines of Google's have which GPUs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hermes.cloudbreak.clouds.google import (
    Cluster,
    NodePool,
    create_gpu_node_pool_config,
)
from hermes.cloudbreak.errors import InvalidSpec


@pytest.mark.parametrize(
    ("vcpus", "gpus", "gpu_type", "machine_type", "name"),
    [
        (4, 1, "t4", "n1-standard-4", "nvidia-tesla-t4"),
        (6, 1, "nvidia-tesla-t4", "custom-6-23040", "nvidia-tesla-t4"),
        (96, 4, "T4", "n1-standard-96", "nvidia-tesla-t4"),
        (4, 1, "l4", "g2-standard-4", "nvidia-l4"),
        (32, 1, "l4", "g2-standard-32", "nvidia-l4"),
        (96, 8, "nvidia-l4", "g2-standard-96", "nvidia-l4"),
        (12, 1, "a100", "a2-highgpu-1g", "nvidia-tesla-a100"),
        (96, 8, "a100-40gb", "a2-highgpu-8g", "nvidia-tesla-a100"),
        (96, 16, "a100", "a2-megagpu-16g", "nvidia-tesla-a100"),
        (48, 4, "a100-80gb", "a2-ultragpu-4g", "nvidia-a100-80gb"),
        (26, 1, "h100", "a3-highgpu-1g", "nvidia-h100-80gb"),
        (208, 8, "h100", "a3-highgpu-8g", "nvidia-h100-80gb"),
        (224, 8, "h200", "a3-ultragpu-8g", "nvidia-h200-141gb"),
    ],
)
def test_a_machine_is_found_and_makes_a_pool(
    vcpus: int, gpus: int, gpu_type: str, machine_type: str, name: str
) -> None:
    config = create_gpu_node_pool_config(vcpus, gpus, gpu_type)
    pool = NodePool("pool", **config)
    assert pool.machine_type == machine_type
    assert (pool.gpu_type, pool.num_gpus) == (name, gpus)


@pytest.mark.parametrize(
    ("vcpus", "gpus", "gpu_type", "message"),
    [
        (4, 3, "t4", "give 1 with at most 48 vCPUs, 2 with"),
        (64, 1, "t4", "no machine has 64 vCPUs and 1 nvidia-tesla-t4"),
        (5, 1, "t4", "N even"),
        (0, 1, "t4", "n1-standard-N"),
        (8, 2, "l4", r"g2-standard-24 \(24 vCPUs, 2 GPUs\)"),
        (12, 2, "a100", r"a2-highgpu-2g \(24 vCPUs, 2 GPUs\)"),
        (96, 16, "a100-80gb", "a2-ultragpu-8g"),
        (208, 4, "h100", r"a3-highgpu-4g \(104 vCPUs, 4 GPUs\)"),
        (224, 4, "h200", r"there are a3-ultragpu-8g \(224 vCPUs, 8 GPUs\)"),
        (8, 1, "k80", "give one of t4, l4, a100"),
    ],
)
def test_what_is_not_sold_is_refused_with_what_is(
    vcpus: int, gpus: int, gpu_type: str, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        create_gpu_node_pool_config(vcpus, gpus, gpu_type)


T4, L4 = "nvidia-tesla-t4", "nvidia-l4"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"machine_type": "n1-standard-8", "gpu_type": L4, "num_gpus": 1},
            "machine_type='n1-standard-8' with 1 nvidia-l4: there are g2",
        ),
        (
            {"machine_type": "n1-standard-7", "gpu_type": T4, "num_gpus": 1},
            "machine_type='n1-standard-7' with 1 nvidia-tesla-t4",
        ),
        (
            {"machine_type": "e2-standard-4", "gpu_type": T4, "num_gpus": 1},
            "on n1-standard-N",
        ),
        (
            {"machine_type": "g2-standard-24", "gpu_type": L4, "num_gpus": 1},
            "g2-standard-24' with 1 nvidia-l4",
        ),
        ({"gpu_type": "t4", "num_gpus": 1}, "Google's name of it, 'nvidia-te"),
        ({"machine_type": "g2-standard-24"}, "gpu_type='nvidia-l4' and num"),
        ({"machine_type": "g2-standard-5"}, "there are g2-standard-4"),
        ({"zones": ("us-central1",)}, "give zones such as 'us-central1-a'"),
        ({"disk_gb": 0}, "disk_gb=0 of pool: give a positive"),
        ({"gpu_driver": "newest"}, "give one of default, latest, disabled"),
        ({"min_nodes": 1}, "give both, the smaller first, or none"),
        ({"max_nodes": 1}, "give both, the smaller first, or none"),
        ({"min_nodes": 3, "max_nodes": 2}, "the smaller first"),
        ({"min_nodes": 0, "max_nodes": 0}, "the smaller first"),
        ({"min_nodes": 2, "max_nodes": 4}, "a number from min_nodes=2 to"),
        ({"max_run_seconds": 5}, "=5 of pool: give 30 to 10368000"),
        ({"max_run_seconds": 1e9}, "give 30 to 10368000 .120 days., or None"),
        ({"max_run_seconds": float("nan")}, "give 30 to 10368000"),
    ],
)
def test_wrong_pools_are_refused_before_anything_is_sent(
    wrong: Any, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        NodePool("pool", **wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"machine_type": "custom-10-40960", "gpu_type": T4, "num_gpus": 2},
        {"machine_type": "n1-custom-10-9999", "gpu_type": T4, "num_gpus": 2},
        # Not in the table: the cloud knows.
        {"machine_type": "a4-highgpu-8g", "gpu_type": "b200", "num_gpus": 8},
        {"machine_type": "c4-standard-8"},
        {"zones": ("us-central1-a", "us-central1-ai1a")},
    ],
)
def test_other_pools_are_left_to_the_cloud(right: Any) -> None:
    assert NodePool("pool", **right).cluster == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"zones": ("Mars",)}, "give zones or regions such as"),
        ({"node_zones": ("us-central1",)}, "give zones such as"),
        ({"num_nodes": 0}, "num_nodes=0 of main"),
        ({"disk_gb": -1}, "disk_gb=-1 of main"),
        ({"max_run_seconds": 5}, "max_run_seconds=5 of main: give 30 to"),
    ],
)
def test_wrong_clusters_are_refused_before_anything_is_sent(
    wrong: Any, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        Cluster("main", **wrong)


def test_the_module_has_what_it_says_and_nothing_else() -> None:
    from hermes.cloudbreak.clouds import google

    with pytest.raises(AttributeError, match="no attribute 'Clutser'"):
        _ = google.Clutser
    for name in google.__all__:
        assert getattr(google, name).__name__ == name
