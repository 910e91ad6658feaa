"""Clusters and virtual machines that run Triton.

General layout:

    specs.py       what is wanted, what is observed;  labels.py  whose it is
    reconcile.py   pure: wanted, asked for, there -> what to do next
    reconciler.py  until it is as wanted;  reaping.py  deletes the expired
    cloud.py       the seam: five verbs;  clouds/  those that there are
    triton.py      Triton on a Kubernetes cluster;  ssh.py  many machines
    testing/       a cloud in memory, and what every cloud has to do
"""

from hermes.cloudbreak._conflict import refuse_ml4gw_hermes

refuse_ml4gw_hermes()
