"""Values in, a decision out: which route, which target, which agent, and why (spec §3, 4, 6, 7).

No module here reads a clock, a socket or a random source; they come as arguments. What is
worked out once per configuration stands in `compiled` and `tables`; what outlives a reload
stands on the `board`; what happens per request is `RouteTable.match`, then `decide.choose`.

`path`, `route`, `redirect`        the request line -> a route, or the answer itself
`select`, `compiled`, `tables`     configuration -> what a request needs, made at reload
`health`                           verdicts -> whether a path may be used
`state`, `board`                   who is connected, healthy and busy -> masks of who is usable
`schedule`, `balance`, `decide`    masks and turns -> a choice
`request`, `explain`, `render`     the same decisions, asked by people
`expect`                           and by `[[expectations]]`
`forward`, `chain`, `retry`        what is sent upstream, and whether again
"""
