"""Export networks to Triton model repositories, and stream through them.

General layout, from the outside in:

* `repository`: `ModelRepository`, the directory that Triton loads;
* `models`, `ensembles`: what is in it, `Model` and `Ensemble`;
* `config`: Triton's own model configuration, field by field;
* `exporters`: from a network to the bytes of an artifact, one module per
  source framework, found through one table;
* `streaming`: state that lives on the server;
* `verify`: run what was exported (extra ``verify``);
* `_graph` (an ensemble's graph) serves those above;
* `storage`: files, in directories and buckets.
"""

from hermes.quiver._conflict import refuse_ml4gw_hermes

refuse_ml4gw_hermes()

from hermes.quiver.config import ModelConfig
from hermes.quiver.ensembles import Ensemble
from hermes.quiver.errors import QuiverError
from hermes.quiver.models import ExposedTensor, Model
from hermes.quiver.platforms import Platform
from hermes.quiver.repository import ModelRepository

__all__ = (
    "Ensemble",
    "ExposedTensor",
    "Model",
    "ModelConfig",
    "ModelRepository",
    "Platform",
    "QuiverError",
)
