"""The hot path.

`server` holds what all connections share, `connection` reads heads, `exchange` tells one request
from top to bottom; `forward` is the request's side, `response` the answer's, `answer` and `replies`
our own answers; `pump` has the only loops over body bytes, `upstream` the kept-alive connections.
"""
