"""Who Schemathesis calls as, so that nothing it tries locks it out of the rest."""

import http.cookiejar
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request

import schemathesis

SERVER = os.environ["GAPURA_TEST_SERVER"]
PASSWORD = os.environ["GAPURA_TEST_PASSWORD"]
# Ends every login of whoever calls: done by somebody else, with a login of its own each time.
ENDS_LOGINS = ("/api/v1/auth/logout", "/api/v1/auth/logout-all")


def ask(method, path, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["data"]


def log_in(username):
    return ask("POST", "/api/v1/auth/token", {"username": username, "password": PASSWORD})


def sit_down():
    """The cookie and the form token of somebody who signed in at the login page."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def form_token(page):
        return re.search(r'name="csrf-token" content="([^"]+)"', page.read().decode()).group(1)

    with browser.open(f"{SERVER}/login", timeout=10) as page:
        token = form_token(page)
    form = {"login": "typist", "password": PASSWORD, "csrf_token": token}
    with browser.open(f"{SERVER}/login", urllib.parse.urlencode(form).encode(), timeout=10) as page:
        token = form_token(page)
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar), token


ADMIN = log_in("admin")
PEOPLE = {"admin": ADMIN["user"]["id"]}
for name in ("leaver", "typist", "spare"):
    person = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
    PEOPLE[name] = ask("POST", "/api/v1/users", person, ADMIN["access_token"])["id"]
SEAT = sit_down()


@schemathesis.auth(refresh_interval=None)
class Caller:
    token = ADMIN["access_token"]

    def get(self, case, context):
        # For pages only.
        if case.operation.path == "/api/password-strength":
            return SEAT
        if case.operation.path in ENDS_LOGINS:
            return log_in("leaver")["access_token"]
        return Caller.token

    def set(self, case, data, context):
        case.headers = case.headers or {}
        if data is SEAT:
            case.headers["Cookie"], case.headers["X-CSRF-Token"] = SEAT
            return
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context, case, kwargs):
    # The people it calls as keep their names and passwords: what is meant for them befalls another.
    if case.operation.path == "/api/v1/users/{id}" and case.method.upper() == "PATCH":
        if case.path_parameters.get("id") in PEOPLE.values():
            case.path_parameters["id"] = PEOPLE["spare"]


@schemathesis.hook
def after_call(context, case, response):
    # It may have ended its own login, as anybody may.
    if response.status_code == 401 and case.operation.path not in ENDS_LOGINS:
        try:
            ask("GET", "/api/v1/me", token=Caller.token)
        except urllib.error.HTTPError:
            Caller.token = log_in("admin")["access_token"]
