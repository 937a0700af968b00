-- Refreshes each login whose token stands in a file once, and stops.
function init(args)
  tokens = {}
  for line in io.lines(args[1]) do tokens[#tokens + 1] = line end
  place = 0
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  place = place + 1
  if place > #tokens then wrk.thread:stop() end
  return wrk.format(nil, nil, nil, '{"refresh_token":"' .. tokens[(place - 1) % #tokens + 1] .. '"}')
end
