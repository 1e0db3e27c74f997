"""The egress policy allows and refuses addresses, however they are written, at registration and at connect."""

# ruff: noqa: RUF001 - digits that only look alike are the point

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskstream.backends.egress import AddressRefused, EgressPolicy, ForbiddenAddress, Resolve, refused_by_policy
from taskstream.settings import InvalidSettings, Settings
from taskstream.wire.addresses import BadAddress, InvalidAddress
from taskstream.wire.body_limit import AnswerTooLarge, read_capped
from taskstream.wire.connections import keep

from .wire_fixtures import Wire
from .wire_server import WireServer

TIMEOUT = aiohttp.ClientTimeout(total=5)


def dns(names: Mapping[str, str | list[str]]) -> Resolve:
    """Return a resolver that knows these names only."""

    async def resolve(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        known = names.get(host.rstrip("."), [])
        addresses = [known] if isinstance(known, str) else known
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for each in addresses
        ]

    return resolve


def policy(*allow: str, private: bool = False, names: Mapping[str, str | list[str]] | None = None) -> EgressPolicy:
    asked = Settings(allow_private_backends=private, backend_allow=allow)
    return EgressPolicy.from_settings(asked, resolve=dns(names or {}))


# Addresses

PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"]
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "169.254.1.1", "198.18.0.1", "::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
]  # fmt: skip
METADATA = ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200"]
NOWHERE = [
    "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.8",
    "192.0.2.1", "192.88.99.1", "198.51.100.1", "203.0.113.1", "ff02::1", "2001:db8::1", "100::1", "::ffff:0.0.0.0",
    "::127.0.0.1", "::ffff:0:127.0.0.1", "2002:e000:1::1", "2001:10::1", "3fff::1", "5f00::1", "4000::1",
    "2001:0:808:808::f7f7:f7f6",
]  # fmt: skip


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_are_accepted(ip: str) -> None:
    policy().check_ip(ip)


@pytest.mark.parametrize("ip", PRIVATE + METADATA + [each for each in NOWHERE if each != "2001:0:808:808::f7f7:f7f6"])
def test_all_others_are_refused(ip: str) -> None:
    with pytest.raises(ForbiddenAddress):
        policy().check_ip(ip)


@pytest.mark.parametrize("ip", PRIVATE + PUBLIC)
def test_private_ones_are_accepted_when_the_setting_says_so(ip: str) -> None:
    policy(private=True).check_ip(ip)


@pytest.mark.parametrize("ip", METADATA)
def test_metadata_services_must_be_listed_by_themselves(ip: str) -> None:
    with pytest.raises(ForbiddenAddress, match="TASKSTREAM_BACKEND_ALLOW"):
        policy(private=True).check_ip(ip)
    policy("169.254.169.254", "fd00:ec2::254/128", "100.100.100.0/24").check_ip(ip)


def test_teredo_is_checked_by_both_addresses_in_it() -> None:
    # 2001:0:SERVER:FLAGS:PORT:CLIENT, the client inverted (RFC 4380).
    policy().check_ip("2001:0:808:808:0:0:f7f7:f7f7")
    for ip in ("2001:0:7f00:1:0:0:f7f7:f7f7", "2001:0:808:808:0:0:80ff:fffe"):
        with pytest.raises(ForbiddenAddress):
            policy().check_ip(ip)


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "2001:db8::1"])
def test_nothing_opens_unspecified_multicast_and_reserved(ip: str) -> None:
    with pytest.raises(ForbiddenAddress):
        policy("0.0.0.0/0", "::/0", private=True).check_ip(ip)


def test_a_listed_block_opens_itself_only() -> None:
    listed = policy("10.1.0.0/16", "fd00:1::/32", "192.168.7.7")
    for ip in ("10.1.2.3", "::ffff:10.1.2.3", "2002:a01:203::1", "fd00:1::5", "192.168.7.7"):
        listed.check_ip(ip)
    for ip in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::5", "192.168.7.8", "127.0.0.1"):
        with pytest.raises(ForbiddenAddress):
            listed.check_ip(ip)


def test_what_is_no_address_is_refused() -> None:
    for text in ("", "example.org", "1.2.3", "1.2.3.4.5"):
        with pytest.raises(InvalidAddress):
            policy(private=True).check_ip(text)


@pytest.mark.parametrize("entry", ["10.0.0.5/8", "http://gpu", "gpu:8080", "10.0.0.0/33", "1.2.3", "*.internal", "a b"])
def test_an_entry_that_can_match_nothing_is_an_invalid_setting(entry: str) -> None:
    with pytest.raises(InvalidSettings, match="TASKSTREAM_BACKEND_ALLOW"):
        policy(entry)


# Webhooks


def webhooks(*allow: str) -> EgressPolicy:
    async def resolve(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        raise AssertionError("a user learns from a look-up what exists inside")

    settings = Settings(webhook_allow=allow, allow_private_backends=True, backend_allow=("10.0.0.0/8", "gpu.internal"))
    return EgressPolicy.for_webhooks(settings, resolve=resolve)


async def test_what_opens_private_addresses_to_backends_opens_none_to_webhooks() -> None:
    for host in (
        "127.0.0.1",
        "10.0.0.1",
        "[::1]",
        "[fd00::1]",
        "localhost",
        "a.localhost",
        "169.254.1.1",
        "100.64.0.1",
    ):
        with pytest.raises(ForbiddenAddress, match="TASKSTREAM_WEBHOOK_ALLOW"):
            await webhooks().check_url(f"http://{host}/")
    for host in ("gpu.internal", "8.8.8.8"):
        await webhooks().check_url(f"http://{host}/")
    assert not webhooks().opens_private


async def test_only_what_is_listed_for_webhooks_is_open_to_them_and_never_metadata() -> None:
    listed = webhooks("127.0.0.1/32", "169.254.0.0/16", "0.0.0.0/0", "localhost")
    for host in ("127.0.0.1", "localhost", "10.0.0.1"):
        await listed.check_url(f"http://{host}/")
    for host in ("169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(ForbiddenAddress, match="no webhook can have"):
            await listed.check_url(f"http://{host}/")
    assert listed.opens_private
    with pytest.raises(InvalidSettings, match="TASKSTREAM_WEBHOOK_ALLOW"):
        webhooks("http://a")


# Registration


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org", "http://example.org:8080/predict?a=b", "HTTP://EXAMPLE.ORG/", "http://8.8.8.8/x",
        "http://[2606:4700::1111]:80/", "http://bücher.example/", "http://my_service:9000/a%20b", "http://example.org./",
    ],
)  # fmt: skip
async def test_a_well_written_address_is_accepted(url: str) -> None:
    await policy(names={"example.org": "93.184.215.14", "my_service": "8.8.4.4"}).check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "//example.org", "ftp://example.org", "file:///etc/passwd", "http:example.org", "http://",
        "http:///path", "http://:80/", "http://user@example.org/", "http://user:pass@example.org/", "http://@example.org/",
        "http://example.org/#x", "http://example.org/#", "http://example.org:0/", "http://example.org:65536/",
        "http://example.org:/", "http://example.org:+80/", "http://example.org:８０/", "http://example.org:80:80/",
        "http://example.org/a b", "http://example.org/\n", "http://exa\tmple.org/", " http://example.org/",
        "http://example.org/\x00", "http://example.org/\u2028", "http://example.org/\ud800", "http://[::1", "http://::1/",
        "http://[example.org]/", "http://[::1]x/", "http://a..b/", "http://-a.b/", "http://a%2eb/", "http://a\\b/",
        "http://8.8.8.8\\@example.org/", "http://" + "a" * 64 + ".org/", "http://" + "a." * 130 + "org/",
        "http://example.org/" + "x" * 2048, "http://1.2.3.4.5/", "http://256.1.1.1/", "http://08.8.8.8/", "http://foo.1/",
        "http://[v1.x]/",
    ],
)  # fmt: skip
async def test_a_badly_written_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidAddress):
        await policy(private=True, names={"example.org": "93.184.215.14"}).check_url(url)


@pytest.mark.parametrize("url", ["http://134744072/", "http://0x8.8.8.8/", "http://8.8.2056/", "http://010.8.8.8/"])
async def test_a_public_address_in_an_odd_spelling_is_refused_with_the_usual_one(url: str) -> None:
    with pytest.raises(InvalidAddress, match=r"write the host as 8\.8\.8\.8"):
        await policy().check_url(url)


async def test_a_zone_is_refused_also_in_an_allowed_address() -> None:
    with pytest.raises(ForbiddenAddress):
        await policy().check_url("http://[fe80::1%25eth0]/")
    with pytest.raises(InvalidAddress, match="zone"):
        await policy(private=True).check_url("http://[fe80::1%25eth0]/")


async def test_a_name_is_checked_by_every_address_it_has() -> None:
    names: dict[str, str | list[str]] = {
        "good": ["8.8.8.8", "2606:4700::1111"],
        "mixed": ["8.8.8.8", "10.0.0.1"],
        "local": "::1",
    }
    await policy(names=names).check_url("http://good/")
    for name in ("mixed", "local"):
        with pytest.raises(ForbiddenAddress, match=f"{name} is refused.*TASKSTREAM_ALLOW_PRIVATE_BACKENDS") as raised:
            await policy(names=names).check_url(f"http://{name}/")
        assert "10.0.0.1" not in str(raised.value)  # internal addresses are not revealed
        await policy(private=True, names=names).check_url(f"http://{name}/")


async def test_a_name_that_does_not_resolve_is_accepted() -> None:
    await policy().check_url("http://not-yet.example/health")


async def test_the_systems_resolver_is_asked() -> None:
    with pytest.raises(ForbiddenAddress):
        await EgressPolicy.from_settings(Settings()).check_url("http://localhost:8080/")


async def test_a_listed_name_is_accepted_whatever_its_case() -> None:
    listed = policy("GPU.internal.", names={"gpu.internal": "10.0.0.1", "other.internal": "10.0.0.1"})
    for url in ("http://gpu.internal/", "http://GPU.Internal:8000/x", "http://gpu.internal./"):
        await listed.check_url(url)
    for url in ("http://other.internal/", "http://10.0.0.1/"):
        with pytest.raises(ForbiddenAddress):
            await listed.check_url(url)
    with pytest.raises(ForbiddenAddress):
        await policy("gpu", names={"gpu": "0.0.0.0"}).check_url("http://gpu/")


# 127.0.0.1 in as many spellings as we can think of

DIGITS = st.sampled_from(["0123456789", "０１２３４５６７８９", "⓪①②③④⑤⑥⑦⑧⑨", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "₀₁₂₃₄₅₆₇₈₉"])


@st.composite
def loopback_hosts(draw: st.DrawFn) -> str:
    """Draw a host that the system, or the client, takes for an address in 127.0.0.0/8."""
    number = 0x7F000000 + draw(st.integers(0, 0xFFFFFF))
    form = draw(st.sampled_from(["v4", "mapped", "mapped-hex", "6to4", "nat64", "teredo"]))
    high, low = number >> 16, number & 0xFFFF
    match form:
        case "mapped":
            return f"[::ffff:{IPv4Address(number)}]"
        case "mapped-hex":
            return draw(st.sampled_from([f"[0:0:0:0:0:ffff:{high:x}:{low:x}]", f"[::FFFF:{high:X}:{low:04X}]"]))
        case "6to4":
            return f"[2002:{high:x}:{low:x}::{draw(st.integers(0, 0xFFFF)):x}]"
        case "nat64":
            return f"[64:ff9b::{high:x}:{low:x}]"
        case "teredo":
            return f"[2001:0:808:808:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}]"
    count = draw(st.integers(1, 4))  # inet_aton: the last part takes all the bytes that are left
    parts = [number >> 8 * (3 - place) & 0xFF for place in range(count - 1)] + [number & (1 << 8 * (5 - count)) - 1]
    spelled = [draw(st.sampled_from(["{:d}", "0{:o}", "0x{:x}", "0X{:X}", "0x000{:x}"])).format(part) for part in parts]
    dot = draw(st.sampled_from([".", "。", "．", "｡"]))
    digits = draw(DIGITS)
    text = dot.join(spelled).translate(str.maketrans("0123456789", digits))
    return text + draw(st.sampled_from(["", "."]))


@settings(max_examples=500)
@given(host=loopback_hosts(), port=st.sampled_from(["", ":80", ":8080"]), path=st.sampled_from(["", "/", "/x?y"]))
@example(host="①②⑦.⓪.⓪.①", port="", path="/")
@example(host="2130706433", port="", path="/")
@example(host="0x7f.1", port="", path="/")
@example(host="017700000001", port="", path="/")
async def test_no_spelling_of_loopback_is_accepted(host: str, port: str, path: str) -> None:
    with pytest.raises(BadAddress):
        await policy().check_url(f"http://{host}{port}{path}")


async def resolve_numbers(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """Resolve as the system does, without asking the DNS: it understands more spellings than one would think."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await dns({host.rstrip("."): [str(each[4][0]) for each in found]})(host, port, family)


@settings(max_examples=200)
@given(host=loopback_hosts())
@example(host="0x7f.1")
async def test_no_spelling_of_loopback_is_connected(host: str) -> None:
    async with EgressPolicy(resolve=resolve_numbers).session() as session:
        with pytest.raises((aiohttp.ClientConnectorError, aiohttp.InvalidURL)) as raised:
            await session.get(f"http://{host}:9/", timeout=TIMEOUT, allow_redirects=False)
    unknown = isinstance(getattr(raised.value, "os_error", None), socket.gaierror)
    assert refused_by_policy(raised.value) or unknown or isinstance(raised.value, aiohttp.InvalidURL)


@settings(max_examples=300)
@given(url=st.text() | st.builds("http://{}/{}".format, st.text(), st.text()))
async def test_any_text_is_accepted_or_refused_and_nothing_else(url: str) -> None:
    with contextlib.suppress(BadAddress):
        await policy().check_url(url)


# Connecting: a real server on 127.0.0.1


@pytest.fixture
async def backend() -> AsyncIterator[WireServer]:
    async with WireServer() as backend:
        backend.answer = Wire(200)
        yield backend


def at(backend: WireServer, host: str = "127.0.0.1") -> str:
    """Return an address of the server by a name."""
    return f"http://{host}:{backend.port}/"


async def get(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url, timeout=TIMEOUT, allow_redirects=False) as response:
        await read_capped(response, 1024)
        return response.status


async def refuses(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(aiohttp.ClientConnectorError) as raised:
        await get(session, url)
    assert refused_by_policy(raised.value)
    assert isinstance(raised.value.os_error, AddressRefused)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "①②⑦.⓪.⓪.①", "[::ffff:127.0.0.1]", "sneaky.example", "mixed.example", "localhost"]
)
async def test_a_connect_that_policy_refuses_sends_nothing(backend: WireServer, host: str) -> None:
    names: dict[str, str | list[str]] = {
        "sneaky.example": "127.0.0.1",
        "mixed.example": ["8.8.8.8", "127.0.0.1"],
        "localhost": ["::1", "127.0.0.1"],
    }
    async with policy(names=names).session() as session:
        await refuses(session, at(backend, host))
    assert backend.received == []


async def test_a_name_that_moves_after_registration_is_refused_at_connect(backend: WireServer) -> None:
    names: dict[str, str | list[str]] = {"rebinding.example": "8.8.8.8"}
    rules = policy(names=names)
    await rules.check_url(at(backend, "rebinding.example"))
    names["rebinding.example"] = "127.0.0.1"
    async with rules.session() as session:
        await refuses(session, at(backend, "rebinding.example"))
    assert backend.received == []


@pytest.mark.parametrize(
    "rules",
    [policy(private=True), policy("127.0.0.0/8"), policy("127.0.0.1")],
    ids=["private", "block", "address"],
)
async def test_a_connect_that_policy_allows_arrives(backend: WireServer, rules: EgressPolicy) -> None:
    async with rules.session() as session:
        assert await get(session, at(backend)) == 200
    assert len(backend.received) == 1


async def test_a_listed_name_connects_and_the_same_address_otherwise_does_not(backend: WireServer) -> None:
    rules = policy("gpu.internal", names={"gpu.internal": "127.0.0.1", "other.internal": "127.0.0.1"})
    async with rules.session() as session:
        assert await get(session, at(backend, "GPU.internal")) == 200
        for host in ("127.0.0.1", "other.internal"):
            await refuses(session, at(backend, host))
        assert await get(session, at(backend, "gpu.internal.")) == 200
    assert len(backend.received) == 2


async def test_a_listed_name_keeps_its_other_addresses_when_one_is_down(backend: WireServer) -> None:
    rules = policy("gpu", names={"gpu": ["127.0.0.9", "127.0.0.1"]})  # the server listens at the second only
    async with rules.session() as session:
        assert await get(session, at(backend, "gpu")) == 200


async def test_a_server_that_is_down_is_not_refused_by_policy() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with policy(private=True).session() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as raised:
                await get(session, f"http://127.0.0.1:{held.getsockname()[1]}/")
    assert not refused_by_policy(raised.value)


async def test_connections_are_kept_and_cookies_are_not(backend: WireServer) -> None:
    backend.answer = Wire(200, headers={"Set-Cookie": "session=x; Path=/"})
    # aiohttp keeps no cookies of addresses in any case, so this needs a name.
    async with policy("gpu.example", names={"gpu.example": "127.0.0.1"}).session() as session:
        for _ in range(3):
            async with session.get(at(backend, "gpu.example"), timeout=TIMEOUT, allow_redirects=False) as response:
                await response.read()
                keep(response)
    assert len(backend.received) == 3
    assert len({request.connection for request in backend.received}) == 1
    assert all("Cookie" not in request.headers for request in backend.received)


async def test_proxies_of_the_environment_are_ignored(backend: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, at(backend))
    async with policy(private=True, names={"x.example": "127.0.0.1"}).session() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(session, "http://x.example:1/")
    assert backend.received == []


# Answers


async def test_an_answer_of_exactly_the_limit_is_read(backend: WireServer) -> None:
    backend.answer = Wire(200, b"x" * 1000)
    async with policy(private=True).session() as session, session.get(at(backend), timeout=TIMEOUT) as response:
        assert await read_capped(response, 1000) == b"x" * 1000


async def test_a_larger_answer_is_refused_by_its_content_length(backend: WireServer) -> None:
    late = asyncio.Event()

    async def announce(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1001
        await response.prepare(request)
        await late.wait()
        return response

    backend.answer = announce
    async with policy(private=True).session() as session, session.get(at(backend), timeout=TIMEOUT) as response:
        with pytest.raises(AnswerTooLarge) as raised:
            await asyncio.wait_for(read_capped(response, 1000), 60)
        late.set()
        assert raised.value.limit == 1000
        assert response.closed


async def test_a_compressed_bomb_bursts_at_the_limit(backend: WireServer) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < 150_000
    backend.answer = Wire(200, bomb, headers={"Content-Encoding": "gzip"})
    async with policy(private=True).session() as session:
        tracemalloc.start()
        try:
            async with session.get(at(backend), timeout=TIMEOUT) as response:
                with pytest.raises(AnswerTooLarge):
                    await read_capped(response, 1_000_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 5_000_000  # bytes


async def test_members_of_nothing_are_no_way_around_the_limit(backend: WireServer) -> None:
    """Each member costs 20 bytes and holds none, so only what is sent can be counted."""
    backend.answer = Wire(200, gzip.compress(b"") * 10_000, headers={"Content-Encoding": "gzip"})
    async with policy(private=True).session() as session, session.get(at(backend), timeout=TIMEOUT) as response:
        with pytest.raises(AnswerTooLarge):
            await read_capped(response, 100_000)


async def test_compression_is_not_asked_for_but_understood(backend: WireServer) -> None:
    backend.answer = Wire(200, gzip.compress(b"hello"), headers={"Content-Encoding": "gzip"})
    async with policy(private=True).session() as session, session.get(at(backend), timeout=TIMEOUT) as response:
        assert await read_capped(response, 1000) == b"hello"
    assert backend.received[0].headers["Accept-Encoding"] == "identity"
