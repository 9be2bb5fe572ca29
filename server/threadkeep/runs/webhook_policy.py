"""Webhook policy: the URLs that a run may name, and the fields that are sent to them.

A URL is checked twice: its text when the run is created, and the addresses of its host before the call. Both checks use
the same rules, so no spelling of an address avoids them.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

import httpx

from threadkeep.base.problems import StartupError, ValidationFailed
from threadkeep.project import Project

Address: TypeAlias = IPv4Address | IPv6Address

MAX_URL = 2048
"""The most characters in a URL, unless the project sets another limit."""
PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+")
"""A host name or an IPv6 address."""
VARIABLE = re.compile(r"\$\{\{\s*env\.(\w+)\s*\}\}")

CARRIER_GRADE_NAT = ipaddress.ip_network("100.64.0.0/10")
"""Addresses behind a carrier's NAT (RFC 6598). They are private, but `ipaddress` does not report them as private."""
CLOUD_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(address)
    for address in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
"""Metadata services that give a machine its cloud secrets. Some lie in private or public ranges."""
NAT64_NETWORKS = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("::/96"),
)
"""IPv6 networks whose last 32 bits are an IPv4 address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookPolicy:
    """The `webhooks` of `langgraph.json`. Loopback and private networks are blocked unless it allows them explicitly."""

    enabled: bool = True
    """False: runs with a webhook are executed, but nothing is sent (`http.disable_webhooks`)."""
    require_https: bool = False
    allowed_domains: tuple[str, ...] = ()
    """Hosts that may be called. `*.example.com` allows all subdomains. Empty: any host."""
    allowed_ports: frozenset[int] = frozenset()
    """Ports that may be called. Empty: any port."""
    max_url: int = MAX_URL
    allow_loopback: bool = False
    allow_private: bool = False
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Sent with each webhook."""
    fields: frozenset[str] = frozenset()
    """The keys of the body to send. Empty: all keys."""

    def check(self, url: str | None) -> None:
        """ValidationFailed if a run must not use `url`. None means no webhook."""
        if url is not None and self.enabled:
            self.resolve_url(url)

    def resolve_url(self, url: str) -> httpx.URL:
        """Parse `url`, and return the URL to call. ValidationFailed if it must not be called."""
        if len(url) > self.max_url:
            raise ValidationFailed(f"Webhook URL has more than {self.max_url} characters")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise ValidationFailed("Invalid webhook URL") from None
        self._check_scheme(parsed)
        # A name with a period at its end is the same host. `raw_host` is ASCII, also of an international name.
        host = parsed.raw_host.decode("ascii").rstrip(".").lower()
        if not HOST.fullmatch(host):
            raise ValidationFailed(f"Invalid webhook hostname {host!r}")
        self._check_port(parsed.port or PORTS[parsed.scheme])
        if self.allowed_domains and not any(_is_below(host, domain) for domain in self.allowed_domains):
            raise ValidationFailed("Webhook host blocked: domain not allowed")
        if literal := _literal(host):
            self.check_address(literal)
        return parsed

    def _check_scheme(self, url: httpx.URL) -> None:
        if not url.host and url.scheme in {"", *PORTS}:
            raise ValidationFailed("Invalid webhook hostname ''")
        if url.scheme not in PORTS:
            raise ValidationFailed(f"Webhook host blocked: scheme {url.scheme!r} not allowed")
        if self.require_https and url.scheme != "https":
            raise ValidationFailed("Webhook must use https")

    def _check_port(self, port: int) -> None:
        if port > 65535 or (self.allowed_ports and port not in self.allowed_ports):
            raise ValidationFailed(f"Webhook host blocked: port {port} not allowed")

    def check_address(self, address: Address) -> None:
        """ValidationFailed if nothing must be sent to `address`."""
        address = _embedded(address)
        if address.is_loopback:
            if not self.allow_loopback:
                raise ValidationFailed("Webhook host blocked: loopback IP range")
            return
        if address in CLOUD_METADATA_ADDRESSES or _is_never_a_host(address):
            raise ValidationFailed("Webhook host blocked: blocked IP range")
        if not self.allow_private and not (address.is_global and address not in CARRIER_GRADE_NAT):
            raise ValidationFailed("Webhook host blocked: private IP range")


def webhook_policy(project: Project, environment: Mapping[str, str]) -> WebhookPolicy:
    """The policy of a project, with its header templates filled from `environment`.

    As on the reference server, a project with a `webhooks` section requires https unless it sets `require_https`.
    """
    section, url = project.webhooks, project.webhooks.url
    set_fields = url.model_fields_set
    return WebhookPolicy(
        enabled=not project.http.disable_webhooks,
        require_https=url.require_https if "require_https" in set_fields else bool(section.model_fields_set),
        allowed_domains=tuple(domain.lower() for domain in url.allowed_domains or ()),
        allowed_ports=frozenset(url.allowed_ports or ()),
        max_url=url.max_url_length or MAX_URL,
        allow_loopback=not url.disable_loopback,
        allow_private="disable_private_ips" in set_fields and not url.disable_private_ips,
        headers={
            name: _filled(name, value, section.env_prefix, environment) for name, value in section.headers.items()
        },
        fields=frozenset(section.allowed_fields or ()),
    )


def _filled(name: str, template: str, prefix: str, environment: Mapping[str, str]) -> str:
    """Fill a header's template. StartupError if a variable in it is not allowed or not set."""

    def variable(match: re.Match[str]) -> str:
        if not match[1].startswith(prefix):
            raise StartupError(f"webhooks.headers.{name}: {match[1]} does not begin with {prefix}")
        if match[1] not in environment:
            raise StartupError(f"webhooks.headers.{name}: {match[1]} is not set")
        return environment[match[1]]

    value = VARIABLE.sub(variable, template)
    # A line break would add a header or end the head of the request.
    if "\r" in value or "\n" in value or not name.isascii():
        raise StartupError(f"webhooks.headers.{name}: is not a valid header")
    return value


def _is_below(host: str, domain: str) -> bool:
    """Whether `host` is `domain`, or a subdomain of it for `*.example.com`."""
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain


def _literal(host: str) -> Address | None:
    """The address in `host`, in any notation (`127.1`, `0x7f000001`). None if it is a name."""
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        # `fe80::1%eth0` names a network interface, and only the address counts.
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        # The resolver reads the same short and hexadecimal notations.
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _embedded(address: Address) -> Address:
    """The IPv4 address embedded in an IPv6 address, or `address` itself."""
    if isinstance(address, IPv4Address) or address.is_loopback or address.is_unspecified:
        return address
    if inside := address.ipv4_mapped or address.sixtofour:
        return inside
    if any(address in network for network in NAT64_NETWORKS):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    # The second address is that of the client, and the first that of its server.
    return address.teredo[1] if address.teredo else address


def _is_never_a_host(address: Address) -> bool:
    """Whether no policy allows the address: link-local, multicast, unspecified or reserved."""
    if isinstance(address, IPv6Address) and address.is_site_local:
        return True
    # 0.0.0.0/8 is never a destination (RFC 1122), and `is_unspecified` is true only for 0.0.0.0.
    zero = isinstance(address, IPv4Address) and int(address) < 1 << 24
    return zero or address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved
