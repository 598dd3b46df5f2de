"""The running server: `process` (the nursery tree, signals, reload, drain), `listeners`.

    process.run
    ├── signals             SIGHUP: reload. SIGTERM, SIGINT: drain, then leave
    ├── reloads             one after another, in a child and a thread until the swap
    ├── housekeeping        idle upstream connections, cooldowns that end, records to count
    ├── monitor             health checks: one task per path
    ├── management          where agents dial in
    ├── accepting           one task per listening socket; ended by closing the socket
    └── connections         one task per client; outlives its listener

Reload is a transaction (`reload`): a child reads the file (`loading`), a thread compiles it, admin
token and access log are opened, new sockets are bound (`listeners`), and only when all of that
succeeded one reference is swapped and what is gone is stopped. Any fault before the swap keeps
everything as it was.

What goes on through a reload: requests, which end as they began, on removed listeners too; upgraded
connections, for as long as their ends want; idle connections of listeners that stay. Idle ones of
removed listeners end.

One server to a `state_dir`: `owning`.

`answers` is what the API says of all this.

Shutdown: stop accepting; idle connections end at once and busy ones after their request, within
`shutdown_grace_millis`; agents are told to go elsewhere; what is left is cut.
"""
