"""The management port: `server`, the agents' way in (`attach`), the API, the pages, the `client`.

| modules | what they are |
|---|---|
| `server`, `replies`, `websocket` | requests to handlers, and what every answer carries |
| `identity` | how the port is known and reached |
| `guard`, `session`, `throttle`, `admin` | who may ask |
| `api`, `endpoints`, `shapes`, `openapi` | the JSON API: served, listed, described |
| `agent_views`, `route_views`, `request_views`, `views`, `live_views` | what is shown: pure |
| `traffic`, `clock`, `steps`, `encoding` | what views are made from, and how without a pause |
| `live`, `traces`, `viewer`, `pages`, `metrics` | what people and machines watch |
| `attach`, `enrol`, `checked`, `question` | agents, their files, files that hold, `explain` |
"""
