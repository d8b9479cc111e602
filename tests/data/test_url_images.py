"""Images behind addresses: fetched once, within limits, from public hosts only."""

import http.server
import threading

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data import url_images
from modiste.data.url_images import download, file_name


@pytest.fixture
def server():
    """Serves /N.png, a redirection to a file, and a large file; counts what was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
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


def test_large_files_other_schemes_and_redirections_to_files_are_left_out(server, tmp_path, monkeypatch, caplog):
    host, _ = server
    monkeypatch.setattr(url_images, "MAX_BYTES", 4000)
    download([f"{host}/large", f"{host}/away", "file:///etc/passwd", "ftp://x/y", "http://"], tmp_path, private=True)
    assert list(tmp_path.iterdir()) == []
    assert "5 of 5 images could not be downloaded" in caplog.text


def test_hosts_of_a_private_network_are_not_asked(server, tmp_path, caplog):
    host, asked = server
    download([f"{host}/0.png"], tmp_path)
    assert (asked, list(tmp_path.iterdir())) == ([], [])
    assert "private network" in caplog.text
