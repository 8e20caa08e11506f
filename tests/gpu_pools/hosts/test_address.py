"""The address by which other hosts reach this one."""

import pytest

from gpu_pools.hosts import address
from gpu_pools.hosts.address import ADDRESS, interface_of, own_address
from tasks.base.errors import ConfigError


@pytest.fixture(autouse=True)
def _interfaces(monkeypatch):
    monkeypatch.setattr(address, "_interfaces", lambda: {"lo": ["127.0.0.1"], "eth0": ["10.77.0.10", "fe80::1"]})
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://server.lab:4200/api")


def test_it_is_the_one_from_which_the_server_is_reached(monkeypatch):
    monkeypatch.setattr(address, "_from", {"server.lab": "10.77.0.10"}.get)
    assert own_address(["boxb"]) == "10.77.0.10"
    assert interface_of("10.77.0.10") == "eth0"


def test_beside_the_server_it_is_the_one_from_which_another_host_is_reached(monkeypatch):
    monkeypatch.setattr(address, "_from", {"server.lab": "127.0.0.1", "boxb": "10.77.0.10"}.get)
    assert own_address(["boxc", "boxb"]) == "10.77.0.10"


def test_where_there_is_none_the_setting_is_named(monkeypatch):
    monkeypatch.setattr(address, "_from", {"server.lab": "127.0.0.1"}.get)
    with pytest.raises(ConfigError, match=f"set {ADDRESS} for its worker"):
        own_address(["boxb"])


def test_a_setting_goes_before_and_must_be_an_address_of_this_host(monkeypatch):
    monkeypatch.setenv(ADDRESS, "10.77.0.10")
    assert own_address() == "10.77.0.10"
    monkeypatch.setenv(ADDRESS, "10.77.0.99")
    with pytest.raises(ConfigError, match=r"found TRAINYARD_ADDRESS='10.77.0.99', need an address of this host"):
        own_address()
    monkeypatch.setenv(ADDRESS, "not a name")
    with pytest.raises(ConfigError, match="need an address or a name of this host"):
        own_address()


def test_an_address_that_no_interface_has_is_refused():
    with pytest.raises(ConfigError, match="found no network interface with the address 10.0.0.1"):
        interface_of("10.0.0.1")
