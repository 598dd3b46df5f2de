"""What is kept of what happened: `records` of requests, and what is made of them.

    counters   since the start, per path, with the histograms of `latency`
    rollup     by time; `overview` shows a window of it
    sessions   of agents
    history    all of these in an SQLite file, whose `tables` say what is kept for how long
    trace      the stages of requests, for those who watch
    access     the access log; `logs` are the program's own

None of it ever makes a request wait.
"""
