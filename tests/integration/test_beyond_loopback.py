"""Doors for other machines: only with TLS or behind a named proxy, and nothing else is open (N1)."""

import json
import socket
import ssl

import grpc
import httpx
import psutil
import pytest
from certificates import make_pair
from support import command, free_ports
from support_site import Site, answers
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from citybrain.core.addresses import Proxies
from citybrain.core.home import Home
from citybrain.platform.children import marked
from citybrain.sdk import CityBrain
from citybrain.sdk.trust import trusting

LAN = next(
    (
        address.address
        for found in psutil.net_if_addrs().values()
        for address in found
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ),
    "",
)


@pytest.mark.full
def test_a_platform_for_other_machines(tmp_path):
    home, ports = Home(tmp_path / "home"), free_ports(2)
    cert, key = make_pair(tmp_path, addresses=("127.0.0.1", *([LAN] if LAN else [])))
    wide = ("up", "--host", "0.0.0.0", "--port", str(ports[0]), "--grpc-port", str(ports[1]))
    refused = command(home.root, *wide, "--detach", check=False)
    assert refused.returncode == 1
    assert "in the clear" in refused.stderr
    assert "--tls-cert" in refused.stderr
    assert not (home.run / "platform.json").exists()
    try:
        command(home.root, *wide, "--detach", "--tls-cert", str(cert), "--tls-key", str(key))
        looks_right_from_here(home, ports)
        speaks_tls_alone(home, ports, cert)
        opens_nothing_else(home, ports)
        answer = command(
            home.root, "reload", CITYBRAIN_TLS_CERT="", CITYBRAIN_TLS_KEY="", check=False
        )
        assert answer.returncode == 1
        assert "in the clear" in answer.stderr
        renewed = make_pair(tmp_path, "renewed")
        command(
            home.root,
            "reload",
            CITYBRAIN_TLS_CERT=str(renewed[0]),
            CITYBRAIN_TLS_KEY=str(renewed[1]),
        )
        shown = ssl.get_server_certificate(("127.0.0.1", ports[0]))
        assert shown.split() == renewed[0].read_text().split()
        assert json.loads(command(home.root, "status", "--json").stdout)["ready"]
    finally:
        command(home.root, "down")


def looks_right_from_here(home, ports):
    status = json.loads(command(home.root, "status", "--json").stdout)
    assert status["url"] == f"https://127.0.0.1:{ports[0]}"
    found = json.loads(command(home.root, "doctor", "--json", check=False).stdout)
    marks = {one["check"]: one["mark"] for one in found}
    checks = ("doors", "environment", "listeners", "settings")
    assert {check: marks[check] for check in checks} == dict.fromkeys(checks, "✓"), found
    assert "✗" not in {one["mark"] for one in found if one["check"] == "files"}, found


def speaks_tls_alone(home, ports, cert):
    url = f"https://localhost:{ports[0]}"
    with CityBrain(url, home.admin_key.read_text().strip(), verify=trusting(cert)) as city:
        assert city.status().ready
    with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as stranger:
        stranger.get(f"{url}/v2/health/live")  # whose authorities are the system's
    with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as plain:
        plain.get(f"http://127.0.0.1:{ports[0]}/v2/health/live")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.minimum_version = ssl.TLSVersion.TLSv1
    with socket.create_connection(("127.0.0.1", ports[0])) as raw, pytest.raises(OSError):
        context.wrap_socket(raw)
    address, request = f"localhost:{ports[1]}", pb.ServerLiveRequest()
    credentials = grpc.ssl_channel_credentials(cert.read_bytes())
    with grpc.secure_channel(address, credentials) as channel:
        assert stubs.GRPCInferenceServiceStub(channel).ServerLive(request, timeout=10).live
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        stubs.GRPCInferenceServiceStub(channel).ServerLive(request, timeout=10)


def opens_nothing_else(home, ports):
    """The census: of all that listens, only the doors do so beyond loopback."""
    state = json.loads((home.run / "platform.json").read_text())
    wide = {
        connection.laddr[:2]
        for process in marked(state["mark"])
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
        and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
        and not " ".join(process.cmdline()).startswith(
            "ray::"
        )  # these want a certificate of the home
    }
    assert wide == {("0.0.0.0", ports[0]), ("::", ports[1])}


@pytest.mark.full
@pytest.mark.skipif(not LAN, reason="this machine has no address but loopback")
def test_without_tls_only_the_named_proxies_come_in(tmp_path):
    site = Site(tmp_path)

    def asked(host, source=None):
        with socket.create_connection(
            (host, site.port), 10, (source, 0) if source else None
        ) as one:
            one.sendall(site.request())
            return answers(one)[0]

    site.only, site.host = Proxies("192.0.2.7"), "0.0.0.0"
    with site.open():
        status, _, body = asked(LAN)
        assert (status, json.loads(body)["code"]) == (403, "network_not_allowed")
        assert asked("127.0.0.1")[0] == 200, "this machine itself"
    (tmp_path / "named").mkdir()
    site = Site(tmp_path / "named")
    site.only, site.host = Proxies(LAN), "0.0.0.0"
    with site.open():
        assert asked(LAN)[0] == 200
