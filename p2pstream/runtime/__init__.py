"""The running server: `process` (the nursery tree, signals, reload, drain), `listeners`.

    process.run
    ├── signals             SIGHUP: reload. SIGTERM, SIGINT: drain, then leave
    ├── housekeeping        idle upstream connections, cooldowns that end, records to count
    ├── management          where agents dial in
    ├── accepting           one task per listening socket; ended by closing the socket
    └── connections         one task per client; outlives its listener

Reload is a transaction: load and compile, bind what is new, and only when all of that succeeded
swap one reference and stop what is gone. Any fault before the swap keeps everything as it was.

Shutdown: stop accepting; idle connections end at once and busy ones after their request, within
`shutdown_grace_millis`; agents are told to go elsewhere; what is left is cut.
"""
