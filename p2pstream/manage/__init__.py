"""The management port: `server`, the agents' way in (`attach`), the API, and its client.

`identity` says how it is known and reached, `admin` who may ask; `views` and
`live_views` are what is shown. `enrol` declares agents in the operator's files.
"""
