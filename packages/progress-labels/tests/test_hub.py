import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from progress_labels.hub import local_root
from progress_labels.labels import read_labels
from progress_labels.testing import make_dataset

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_paths_stay_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert local_root("owner/name") == local_root(tmp_path / "owner/name").relative_to(tmp_path)
    for path in ("nowhere", "./owner/other", "a/b/c", "/etc/nothing"):
        assert str(local_root(path)) == str(path).removeprefix("./")


def _serve(root):
    """Serve one dataset in the form of the Hub's interface."""
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            prefix = f"/datasets/owner/squares/resolve/{_COMMIT}/"
            if path.startswith("/api/datasets/owner/squares/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in files.items()
                ]
                self._send(json.dumps(tree).encode(), "application/json")
            elif path.startswith("/api/datasets/owner/squares"):
                siblings = [{"rfilename": name} for name in files]
                entry = {"id": "owner/squares", "sha": _COMMIT, "siblings": siblings}
                self._send(json.dumps(entry).encode(), "application/json")
            elif path.startswith(prefix) and path.removeprefix(prefix) in files:
                self._send(files[path.removeprefix(prefix)], "application/octet-stream")
            else:
                self.send_error(404)

        def _send(self, content, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _label(source, home, **environment):
    code = "from progress_labels.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "label", source],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dataset_of_the_hub_is_fetched_and_labelled(tmp_path):
    make_dataset(tmp_path / "set", num_episodes=2)
    server = _serve(tmp_path / "set")
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        online = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        done = _label("owner/squares", tmp_path / "home", **online)
        absent = _label("owner/triangles", tmp_path / "home", **online)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    root = tmp_path / "home/lerobot/owner/squares"
    assert sorted(read_labels(root / "feat2go_progress.parquet")) == [0, 1]
    assert absent.returncode == 1
    assert "no such dataset could be fetched" in absent.stderr


def test_without_a_network_the_error_says_so(tmp_path):
    done = _label("owner/squares", tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "No folder 'owner/squares', and no such dataset could be fetched" in done.stderr
    assert not (tmp_path / "lerobot").exists()
