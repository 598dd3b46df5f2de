"""Yamux version 0: many streams over one connection, as hashicorp/yamux speaks it. No I/O.

Where to find what, from the bytes up:

* `frame`    the twelve byte header: constants, packing, strict parsing; `ProtocolError`.
* `window`   credit: what may be sent, what may be received, how a receive window grows.
* `stream`   one stream: a literal table of (state, input) -> (action, state), inbox and outbox.
* `streams`  all of a session: ids, limits, which of them have news.
* `turns`    whose frame goes out next: control, then small, then each bulk sender in its turn.
* `receive`  bytes in: frames are walked where they stand in the read.
* `session`  one connection, put together: `receive_data`, `next_batch`, and `take_touched`, which
  names the streams whose tasks have something to do.

Time, round trips and randomness are arguments; the Trio shell is `p2pstream.agents.tunnel`.

Source: the Yamux specification (https://github.com/hashicorp/yamux/blob/master/spec.md). Where
it is silent we say so at the rule. Everything beyond it is on our own side of the wire: receive
windows that grow are announced with ordinary window updates, and no frame is longer than
64 KiB, so any hashicorp/yamux peer works unchanged.
"""
