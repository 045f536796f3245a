"""Make the README's pictures: the top of a report and the gate's dashboard, as a browser shows them.

python scripts/make_pictures.py                   runs the default audit and the demonstration: minutes
python scripts/make_pictures.py --report FILE     takes a report that is there
python scripts/make_pictures.py --check           exits with 1 where the looks have changed since (a test runs this)

Needs chromium and Pillow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/portcullis_ml"
PICTURES = ROOT / "docs/screenshots"
MADE = PICTURES / "made.json"
LOOKS = {  # picture -> what decides its looks
    "report.png": ["report/page.css", "report/page.py", "report/frame.py"],
    "dashboard.png": [
        f"gateway/admin/pages/{name}" for name in ("page.html", "clients.html", "rows.html", "style.css")
    ],
}


def looks(picture: str) -> str:
    """The fingerprint of the files that decide a picture's looks."""
    text = b"".join((SOURCE / name).read_bytes() for name in LOOKS[picture])
    return hashlib.sha256(text).hexdigest()[:16]


def stale() -> list[str]:
    """The pictures that are not of today's looks."""
    made = json.loads(MADE.read_text()) if MADE.is_file() else {}
    return [name for name in LOOKS if made.get(name) != looks(name) or not (PICTURES / name).is_file()]


def photograph(address: str, to: Path, height: int) -> None:
    """What a browser shows of a page, 1,200 pixels wide, in 256 colours."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("A picture needs chromium. On Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}",
                   f"--user-data-dir={folder}/profile", f"--window-size=1200,{height}", address]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("RGB").quantize(256).save(to, optimize=True)


def portcullis(*words: str) -> list[str]:
    return [sys.executable, "-c", "from portcullis_ml.cli import main; main()", *words]


def report(given: Path | None, folder: Path) -> None:
    if given is None:
        subprocess.run(portcullis("audit", "--out", str(folder / "audit")), check=True)
    found = given or folder / "audit/report.html"
    photograph(found.resolve().as_uri(), PICTURES / "report.png", 900)


def dashboard(folder: Path) -> None:
    """The demonstration after an honest client and its thief; its page is behind a login and fetched with the token."""
    command = portcullis("serve", "--port", "0", "--admin-port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as gate:
        try:
            said = announced(gate)
            honest(said["gate"], said["alice"])
            thief = portcullis("demo", "attack", "--url", said["gate"], "--key", said["thief"])
            subprocess.run(thief, check=True, stdout=subprocess.DEVNULL)
            page, style = (fetched(said["dashboard"].rstrip("/") + path, said["token"]) for path in ("/", "/style.css"))
        finally:
            gate.terminate()
    page = re.sub(r'<link rel="stylesheet"[^>]*>', lambda _: f"<style>{style}</style>", page)
    local = folder / "dashboard.html"
    local.write_text(re.sub(r"<script[^>]*></script>", "", page), encoding="utf-8")
    photograph(local.as_uri(), PICTURES / "dashboard.png", 420)


def announced(gate: subprocess.Popen[str]) -> dict[str, str]:
    """What the demonstration prints when it starts: addresses, its token, and the clients' keys by their names."""
    said: dict[str, str] = {}
    assert gate.stdout is not None
    while "token" not in said:
        line = gate.stdout.readline()
        if not line:
            sys.exit("The demonstration did not start.")
        what, _, about = (part.strip() for part in line.partition("  "))
        if what == "API key":
            about, _, name = about.partition("  (")
            what = name.rstrip(")")
        said[what] = about
    return said


def honest(gate: str, key: str) -> None:
    """Thirty requests of five digits, as a client's own program would send them."""
    x = load_digits().data[:150] / 16
    for i in range(0, len(x), 5):
        rows = {"name": "input", "shape": [5, 64], "datatype": "FP64", "data": x[i : i + 5].reshape(-1).tolist()}
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        body = json.dumps({"inputs": [rows]}).encode()
        asked = urllib.request.Request(f"{gate.rstrip('/')}/v2/models/digits/infer", body, headers)
        urllib.request.urlopen(asked, timeout=10).close()


def fetched(address: str, token: str) -> str:
    asked = urllib.request.Request(address, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(answer.read().decode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="an audit's report.html, in place of a new default audit")
    parser.add_argument("--check", action="store_true", help="only say which pictures are not of today's looks")
    given = parser.parse_args()
    if given.check:
        if old := stale():
            sys.exit(
                f"{', '.join(old)} in docs/screenshots: the looks changed since. Run python scripts/make_pictures.py"
            )
        return
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        report(given.report, Path(folder))
        dashboard(Path(folder))
    MADE.write_text(json.dumps({name: looks(name) for name in LOOKS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
