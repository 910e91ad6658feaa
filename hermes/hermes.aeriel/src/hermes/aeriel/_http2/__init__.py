"""A `Channel` over HTTP/2 and gRPC's framing of our own, without TLS.

It costs a fraction of the time that grpcio takes for the same messages, and
unlike grpcio it works in a process that has forked.

General layout:
    _frames.py      HTTP/2's frames as bytes; pure
    _headers.py     requests' and responses' headers; pure
    _messages.py    gRPC's messages in a stream of bytes; pure
    _outbox.py      what may be sent when, by flow control; pure
    _stream.py      one call
    _connection.py  one connection: what a frame that arrives does
    _socket.py      connecting, and waking who waits for a socket
    _channel.py     the channel: a connection at a time
"""

from hermes.aeriel._http2._channel import Http2Channel

__all__ = ("Http2Channel",)
