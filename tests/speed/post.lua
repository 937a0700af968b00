-- A POST without a body, as a ping is.
wrk.method = "POST"
