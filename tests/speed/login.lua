-- Logs in by API, over and over.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"username":"speed","password":"correct horse battery staple"}'
