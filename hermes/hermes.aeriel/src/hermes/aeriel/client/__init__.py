"""Requests to a Triton server: one Future each, sequences kept in order."""

from hermes.aeriel.client._client import InferenceClient
from hermes.aeriel.client._results import StreamResult
from hermes.aeriel.client._sequences import Sequence

__all__ = ("InferenceClient", "Sequence", "StreamResult")
