"""The base of absolute URLs in answers."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Request

from taskstream.api.facades.addresses import RequestAddresses
from taskstream.settings import Settings


def base(headers: dict[str, str], client: str = "127.0.0.1", **settings: Any) -> str:
    scope: Any = {
        "type": "http",
        "scheme": "http",
        "client": (client, 4711),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    return RequestAddresses(Settings(**settings)).base(Request(scope))


def test_urls_begin_with_the_address_that_was_asked() -> None:
    assert base({"Host": "tasks.example.com:8080"}) == "http://tasks.example.com:8080"
    assert base({"Host": "[::1]:8080"}) == "http://[::1]:8080"


def test_a_proxy_says_scheme_host_and_prefix() -> None:
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example.com, inner", "X-Forwarded-Prefix": "/ts/"}

    assert base({"Host": "inner", **said}) == "https://a.example.com/ts"
    assert base({"Host": "inner", **said}, client="::ffff:10.0.0.7", proxies=("10.0.0.0/8",)).startswith("https://a.")


def test_others_than_proxies_say_nothing_about_it() -> None:
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com", "X-Forwarded-Prefix": "/x"}

    assert base({"Host": "tasks.example.com", **said}, client="203.0.113.9") == "http://tasks.example.com"


def test_the_public_url_is_the_base_of_requests_to_its_host() -> None:
    public = {"public_url": "https://tasks.example.com/ts/"}

    assert base({"Host": "Tasks.example.com"}, **public) == "https://tasks.example.com/ts"
    assert base({"Host": "inner:8080"}, **public) == "http://inner:8080"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@a", "a?b", 'a"b', "a\\b", "x" * 300])
def test_a_host_that_is_none_is_not_repeated(host: str) -> None:
    assert base({"Host": host}, public_url="https://tasks.example.com") == "https://tasks.example.com"


@pytest.mark.parametrize("prefix", ["//evil.example.com", "/a b", "a", "/a/../b?c", "/" + "x" * 65])
def test_a_prefix_that_is_no_path_is_left_out(prefix: str) -> None:
    assert base({"Host": "a", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": prefix}) == "https://a"


def test_a_scheme_that_is_none_is_left_out() -> None:
    assert base({"Host": "a", "X-Forwarded-Proto": "javascript"}) == "http://a"
