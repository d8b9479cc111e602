"""Images behind addresses: fetched once, within limits, from public hosts only."""

import http.server
import socket
import ssl
import threading

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data import url_images
from modiste.data.url_images import download, file_name, is_public, read


@pytest.fixture
def server():
    """Serves /N.png, a redirection to a file, and a large file; counts what was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/other":
                self.wfile.write(b"\0" * 100)
                return
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
                return
            data = b"x" * 5000 if self.path == "/large" else encoded(picture(int(self.path[1:-4])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", asked
    made.shutdown()
    made.server_close()


def test_an_image_is_fetched_once(server, tmp_path):
    host, asked = server
    urls = [f"{host}/{number}.png" for number in (0, 1, 1)]
    for _ in range(2):
        assert download(urls, tmp_path, private=True) == tmp_path
    assert sorted(asked) == ["/0.png", "/1.png"]
    assert (tmp_path / file_name(urls[1])).read_bytes() == encoded(picture(1))
    assert len(list(tmp_path.iterdir())) == 2


def test_large_files_other_schemes_and_redirections_to_files_are_excluded(server, tmp_path, monkeypatch, caplog):
    host, _ = server
    monkeypatch.setattr(url_images, "MAX_BYTES", 4000)
    others = ["file:///etc/passwd", "ftp://x/y", "http://", "http://a b/c", "http://[x/"]
    download([f"{host}/large", f"{host}/away", f"{host}/other", *others], tmp_path, private=True)
    assert list(tmp_path.iterdir()) == []
    assert "8 of 8 images could not be downloaded" in caplog.text


def test_hosts_of_a_private_network_are_not_asked(server, tmp_path, caplog):
    host, asked = server
    download([f"{host}/0.png"], tmp_path)
    assert (asked, list(tmp_path.iterdir())) == ([], [])
    assert "private network" in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"),
        *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:10.0.0.1", "::ffff:224.0.0.1", "::10.0.0.1", "::93.184.216.34"),
        *("64:ff9b::10.0.0.1", "64:ff9b:1::93.184.216.34", "64:ff9b:1::10.0.0.1", "100::1"),
        *("2001::1", "2001:2::1", "2001:db8::1", "2001:1ff::1", "2002:a00:1::1", "4000::1", "5f00::1"),
        *("fc00::1", "fd00::1", "fe80::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1"),
    ],
)
def test_addresses_that_are_local_or_contain_one_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "::ffff:93.184.216.34", "2001:200::1", "2606:4700::1111", "2a00:1450::1", "2003::1"]
)
def test_addresses_of_public_hosts_are(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "64:ff9b::7f00:1"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_whose_name_leads_elsewhere_the_second_time_is_not_asked(address, scheme, server, monkeypatch):
    host, asked = server
    port = int(host.rpartition(":")[2])
    answers = ["93.184.216.34"]  # the second time, DNS says another address

    def resolve(name, port, *_, **__):
        number = answers.pop(0) if answers else address
        family = socket.AF_INET6 if ":" in number else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (number, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ValueError, match="private network"):
        read(f"{scheme}://shop.example:{port}/0.png")
    assert (asked, answers) == ([], [])


def test_the_checked_address_is_connected_to_by_its_number_and_asked_for_by_its_name(server, monkeypatch):
    host, _ = server
    connected, names = [], []

    class Socket(socket.socket):
        def connect(self, address):
            connected.append(address)
            super().connect(("127.0.0.1", int(host.rpartition(":")[2])))

    def resolve(name, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(
        ssl.SSLContext, "wrap_socket", lambda self, made, server_hostname: names.append(server_hostname) or made
    )
    for scheme in ("http", "https"):
        assert read(f"{scheme}://shop.example/0.png") == encoded(picture(0))
    assert connected == [("93.184.216.34", 80), ("93.184.216.34", 443)]
    assert names == ["shop.example"]  # of the certificate
