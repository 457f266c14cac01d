"""The built app, as a browser gets it."""

import socket

import pytest

from tests.gateway.conftest import INDEX, SCRIPT, unzipped
from tests.gateway.http import Http


@pytest.mark.parametrize(
    "path",
    ["/", "/datasets", "/datasets/3", "/training", "/training/0b5a-1?x=1.5", "/text-to-image", "/models/", "/new/page"],
)
def test_every_page_can_be_typed_in_and_reloaded(http: Http, path: str) -> None:
    answer = http("GET", path)
    assert (answer.status, answer.body) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"


def test_assets_are_kept_for_good_and_compressed(http: Http) -> None:
    answer = http("GET", "/assets/app-1a2b3c.js", accept_encoding="gzip")
    assert unzipped(answer.body) == SCRIPT
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert http("GET", "/assets/app-1a2b3c.js", accept_encoding="gzip, br").headers["content-encoding"] == "br"
    assert http("GET", "/assets/app-1a2b3c.js").body == SCRIPT


def test_a_file_that_is_not_there_is_not_a_page_and_not_kept(http: Http) -> None:
    for path in ("/assets/gone-1a2b3c.js", "/favicon.ico", "/a/b.js"):
        answer = http("GET", path)
        assert answer.status == 404
        assert answer.body != INDEX
        assert "max-age" not in answer.headers.get("cache-control", "")


def test_a_head_request_and_other_verbs(http: Http) -> None:
    head = http("HEAD", "/icon.svg")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "image/svg+xml")
    assert http("POST", "/icon.svg").status == 405


@pytest.mark.parametrize("path", ["/", "/icon.svg", "/assets/app-1a2b3c.js"])
def test_pages_forbid_what_they_do_not_need(http: Http, path: str) -> None:
    headers = http("GET", path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["script-src"] == "'self'", "no inline scripts, no eval, no other origin"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["object-src"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets/..%5c..%5csecret.txt",
        "/assets//../../secret.txt",
        "//secret.txt",
        "/assets/%00/../secret.txt",
        "/assets/%252e%252e%252fsecret.txt",
    ],
)
def test_nothing_outside_the_folder_is_served(http: Http, path: str) -> None:
    host, _, port = http.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:  # no client that tidies the path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {http.address}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"secret" not in answer.partition(b"\r\n\r\n")[2]
    assert int(answer.split()[1]) in (400, 404)
