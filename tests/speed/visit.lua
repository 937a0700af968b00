-- One visit after the other on one connection: logs in, looks, refreshes, and logs out.
local steps = {"token", "token-status", "refresh", "logout"}
local at = 1
local access, refresh = "", ""
function request()
  local path = "/api/v1/auth/" .. steps[at]
  local headers = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. access}
  if at == 1 then
    headers["Authorization"] = nil
    return wrk.format("POST", path, headers, '{"username":"speed","password":"correct horse battery staple"}')
  elseif at == 2 then
    return wrk.format("GET", path, headers)
  elseif at == 3 then
    return wrk.format("POST", path, headers, '{"refresh_token":"' .. refresh .. '"}')
  end
  return wrk.format("POST", path, headers, "{}")
end
function response(status, headers, body)
  access = string.match(body, '"access_token":"([^"]+)"') or access
  refresh = string.match(body, '"refresh_token":"([^"]+)"') or refresh
  at = at % 4 + 1
end
