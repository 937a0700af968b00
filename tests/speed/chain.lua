-- One chain of rotations on one connection: each answer's refresh token is the next request's.
local thread = 0
function setup(t)
  t:set("number", thread)
  thread = thread + 1
end
function init(args)
  token = args[number + 1]
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  return wrk.format(nil, nil, nil, '{"refresh_token":"' .. token .. '"}')
end
failures = 0
function response(status, headers, body)
  local next = string.match(body, '"refresh_token":"([^"]+)"')
  if status == 200 and next then token = next else failures = failures + 1 end
end
