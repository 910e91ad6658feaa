"""Pipelines of processes, stages for time series, and campaigns.

General layout:
    process.py    a stage, as users write it
    pipeline.py   stages joined, in processes of their own
    channel.py    arrays from one process to another, at memory speed
    series/       stages for time series: sources, framing, alignment, sinks
    campaign.py   one function over many segments, on any executor
    triton.py     inference as a stage (the only module that needs aeriel)
    errors.py     everything that is raised
    _plan.py      pure: which stage reads from which
    _links.py     what a process reads and writes; keeps packages in order
    _packing.py   packages as bytes; _crossing.py  errors as bytes
    _side.py      what both ends of a channel have in common
    _spawn.py     new interpreters; _child.py what they do
    _watch.py     their owner, in the program
    _board.py     counters that they share; _pace.py  rates
    _sync.py      names on the disk: series/ and campaigns
    _conflict.py  the refusal of a distribution with the same import names
"""

from hermes.stillwater._conflict import refuse_ml4gw_hermes

refuse_ml4gw_hermes()

from hermes.stillwater.pipeline import Pipeline
from hermes.stillwater.process import PipelineProcess, stage

__all__ = ("Pipeline", "PipelineProcess", "stage")
