-- A request like a browser's, about 600 bytes of head, no two of them equal: query, referer and
-- cookies change each time, so that nothing on the way can profit from having seen the head before.

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "result.lua")

local n = 0
local before, between

function init(args)
  before = "GET " .. wrk.path .. "?page="
  between = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n"
    .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    .. "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8\r\n"
    .. "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    .. "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    .. "Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n"
    .. "Sec-Fetch-Site: same-origin\r\nPriority: u=0, i\r\n"
    .. "Referer: http://app.example.com/list?page="
end

function request()
  n = n + 1
  -- A multiplier prime to the modulus visits every value before one comes again.
  local id = n * 7919 % 1000003
  return before .. n .. between .. id .. "\r\nCookie: session=5f1d8a" .. id
    .. "c0ffee; theme=dark; seen=" .. n .. "\r\n\r\n"
end
