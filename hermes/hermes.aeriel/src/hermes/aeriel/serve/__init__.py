"""Run a Triton server for as long as a program needs it.

General layout:
    _serve.py         serve(): what users ask for; _server.py: what they get
    _start.py         all about a server but its ports
    _command.py       pure: options -> argument list and environment
    _repository.py    is there a model repository? _image_files.py: an image?
    _gpus.py          which GPUs it may use, and which it sees
    _ports.py         addresses, and ports that stay ours until bound
    _runtimes/        which Triton, and how it is started: local, image, there
    _lifeline.py      the shell that ends the server when we are gone
    _shm.py           what killed lifelines have left, removed
    _readiness.py     questions to a server; _diagnosis.py: why it died
    _models.py        load and unload
    _install.py       `python -m hermes.aeriel.serve install`
    _requirements.py  pure: can this machine run it?
    runtime/          what is installed: pins, backends
"""

from hermes.aeriel.serve._serve import Server, serve

__all__ = ("Server", "serve")
