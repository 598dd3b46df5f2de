"""p2pstream: a self-hosted public reverse proxy whose targets may stand behind remote agents.

Vocabulary (each word means one thing, in the code, the file, the log and the dashboard):

    Listener   a public socket and how it reads requests
    Route      which requests of a listener, and what happens to them
    Target     one place a route's requests may go: an origin, or a static answer
    Agent      a program on a remote host that dials in and reaches origins from there
    Tunnel     the one connection of an agent, many streams on it (Yamux)
    Path       a target as seen directly, or from one agent: what health and balancing count by
    Endpoint   a host and a port that can be dialled
    Stream     bytes both ways with half-close: TCP, TLS, or one of a tunnel's
    Dial       how a Stream to an Endpoint is made: direct, or through an agent
    Snapshot   one configuration, compiled; swapped whole on reload
    Probe      one health check of one path

The life of a request:

    net.listen      accepts; one task per connection from here on
    proxy.server    reads a head                                wire.http1 says what it means
    proxy.exchange  takes the snapshot; refuses, redirects,     policy.route, policy.redirect
                    or chooses target and agent                 policy.decide over policy.board
                    takes a kept-alive connection, or dials     proxy.upstream: net.dial, agents.hub
    proxy.forward   sends head and body, reads the answer       policy.forward: what travels on
    proxy.pump      moves the body
    proxy.exchange  makes the one record                        observe.records

The life of a tunnel: `agents.remote` dials management, `manage.attach` checks it in, `agents.hub`
keeps it, `agents.tunnel` drives `wire.yamux` at both ends, `agents.remote` dials the origins.

Layers, top to bottom; a module imports from layers below its own or from its own folder, and
folders of one row do not know each other (`tests/test_layers.py` holds this):

    8  cli
    7  runtime
    6  manage
    5  proxy, agents, health
    4  net, observe
    3  snapshot
    2  policy      pure
    1  config, wire      pure
    0  errors
"""

__version__ = "0.1.0"
