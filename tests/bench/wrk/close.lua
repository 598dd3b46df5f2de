-- A connection for each request: what is measured are handshakes more than requests.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

wrk.headers["Connection"] = "close"
