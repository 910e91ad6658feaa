"""Serve model repositories with Triton and stream data to them.

General layout:
    serve/        a Triton server for as long as a program needs it
    client/       requests to servers, and sequences that outlive them
    monitor/      what servers do, recorded and shown
    testing/      fakes of a server, a faulty proxy, pytest fixtures
    endpoint.py   where a server listens: what serve/ gives and client/ takes
    specs.py      what a client knows of a model
    dtypes.py     one dtype, two spellings
    errors.py     everything that is raised
    _transport.py the seam to the wire; _triton.py speaks Triton's protocol
    _channel.py   the seam below: bytes, over _http2/ or (TLS) _grpcio.py
    _conflict.py  the refusal of a distribution with the same import names
"""

from hermes.aeriel._conflict import refuse_ml4gw_hermes

refuse_ml4gw_hermes()
