"""Agents: `credentials`, `hub` and `tunnel` on the server's side, `remote` and its parts on theirs.

`remote` keeps a tunnel to each server: `bootstrap` joins, `backoff` waits, `origin` dials what
`allow` permits. `tunnel` drives `wire.yamux` at both ends: `tunnel_stream` is a stream of it,
`sender` puts frames in order, `keepalive` proves that the peer is there. `report` is both ends of
the stream on which an agent's program tells how it is doing (`wire.report` has the frames).
"""
