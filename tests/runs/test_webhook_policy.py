"""Webhook policy: which addresses a run may name, and what is sent to them."""

import ipaddress
from typing import Any

import pytest

from threadkeep.base.problems import StartupError, ValidationFailed
from threadkeep.project import Project, Webhooks, builtin_project
from threadkeep.runs import webhook_policy
from threadkeep.runs.webhook_policy import WebhookPolicy


def project(section: dict[str, Any]) -> Project:
    """A project that says this of webhooks."""
    return builtin_project().model_copy(update={"webhooks": Webhooks.model_validate(section)})


BLOCKED = [
    ("", "Invalid webhook hostname ''"),
    ("foo", "Invalid webhook hostname ''"),
    ("/runs", "Invalid webhook hostname ''"),
    ("http:///x", "Invalid webhook hostname ''"),
    ("ftp://example.com/", "Webhook host blocked: scheme 'ftp' not allowed"),
    ("file:///etc/passwd", "Webhook host blocked: scheme 'file' not allowed"),
    ("http://example.com:99999/", "Webhook host blocked: port 99999 not allowed"),
    ("http://exa mple.com/", "Invalid webhook hostname 'exa%20mple.com'"),
    ("http://127.0.0.1%00.example.com/", "Invalid webhook hostname '127.0.0.1%00.example.com'"),
    ("http://[fe80::1%25eth0]/", "Invalid webhook hostname 'fe80::1%25eth0'"),
    ("http://0177.0.0.1/", "Invalid webhook URL"),
    ("http://\uff11\uff12\uff17.0.0.1/", "Invalid webhook URL"),
    ("http://example.com/" + "x" * 2048, "Webhook URL has more than 2048 characters"),
    *[
        (f"http://{host}/", "Webhook host blocked: loopback IP range")
        for host in (
            "127.0.0.1",
            "127.9.9.9:80",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.1",
            "0x7f000001",
            "2130706433",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "user@127.0.0.1",
        )
    ],
    *[
        (f"http://{host}/", "Webhook host blocked: private IP range")
        for host in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[fd00::1]", "0xa000001", "198.18.0.1")
    ],
    *[
        (f"http://{host}/", "Webhook host blocked: blocked IP range")
        for host in (
            "169.254.169.254",
            "169.254.0.1",
            "0xa9fea9fe",
            "[::ffff:169.254.169.254]",
            "168.63.129.16",
            "100.100.100.200",
            "[fd00:ec2::254]",
            "0.0.0.0",  # noqa: S104 - nothing is bound to it
            "0.1.2.3",
            "[::]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "224.0.0.1",
            "255.255.255.255",
        )
    ],
]


@pytest.mark.parametrize(("url", "reason"), BLOCKED, ids=[url[:60] or "empty" for url, _ in BLOCKED])
def test_address_that_must_not_be_reached_is_refused(url: str, reason: str) -> None:
    """Protocol: the words. Ours: private networks too, and every way to write an address."""
    with pytest.raises(ValidationFailed) as refused:
        WebhookPolicy().check(url)

    assert refused.value.detail == reason


@pytest.mark.parametrize("address", [url for url, reason in BLOCKED if reason.endswith("blocked IP range")])
def test_no_policy_allows_the_metadata_address_of_a_cloud(address: str) -> None:
    """Ours: nor link-local, multicast or reserved addresses."""
    with pytest.raises(ValidationFailed):
        WebhookPolicy(allow_loopback=True, allow_private=True).check(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a?b",
        "http://example.com:8080",
        "http://8.8.8.8/",
        "http://[2606:4700::1111]/",
        "http://bücher.example/",
    ],
)
def test_public_address_is_allowed(url: str) -> None:
    """Protocol: any public host, unless the project says otherwise."""
    WebhookPolicy().check(url)


def test_the_policy_follows_the_project() -> None:
    """Protocol: `webhooks.url`. Ours: private networks are closed unless opened in so many words."""
    said = {
        "allowed_domains": ["hooks.example.com", "*.example.org"],
        "allowed_ports": [443, 8443],
        "max_url_length": 40,
        "disable_private_ips": False,
        "require_https": False,
    }
    policy = webhook_policy.webhook_policy(project({"url": said}), {})

    for url in ("https://hooks.example.com/", "https://a.example.org:8443/", "https://A.EXAMPLE.ORG./"):
        policy.check(url)
    for url, reason in (
        ("https://example.org/", "Webhook host blocked: domain not allowed"),
        ("https://evilexample.org/", "Webhook host blocked: domain not allowed"),
        ("https://hooks.example.com:22/", "Webhook host blocked: port 22 not allowed"),
        ("http://hooks.example.com/", "Webhook host blocked: port 80 not allowed"),
        ("https://hooks.example.com/" + "x" * 40, "Webhook URL has more than 40 characters"),
    ):
        with pytest.raises(ValidationFailed) as refused:
            policy.check(url)
        assert refused.value.detail == reason
    policy.check_address(ipaddress.ip_address("10.0.0.1"))


def test_https_is_required_if_a_project_configures_webhooks_without_http() -> None:
    """Protocol: as on the reference."""
    spoken = project({"headers": {"x": "1"}})

    assert not webhook_policy.webhook_policy(builtin_project(), {}).require_https
    with pytest.raises(ValidationFailed, match="Webhook must use https"):
        webhook_policy.webhook_policy(spoken, {}).check("http://example.com/")
    webhook_policy.webhook_policy(spoken, {}).check("https://example.com/")


@pytest.mark.parametrize("value", ["${{ env.HOME }}", "${{ env.LG_WEBHOOK_MISSING }}", "a\r\nb: c"])
def test_a_header_without_a_value_stops_the_start(value: str) -> None:
    """Ours: only variables with the prefix are sent, and no value is sent in part."""
    with pytest.raises(StartupError):
        webhook_policy.webhook_policy(project({"headers": {"x": value}}), {"HOME": "/root"})
