"""Clusters and virtual machines that run Triton (still empty)."""

from hermes.cloudbreak._conflict import refuse_ml4gw_hermes

refuse_ml4gw_hermes()
