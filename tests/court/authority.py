"""A time authority for the tests: certificates and answers made by openssl in a folder of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

CONFIG = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = {name}
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[signer]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = tsa1
[tsa1]
serial = {folder}/serial
signer_cert = {folder}/signer.pem
signer_key = {folder}/signer.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
"""


class Authority:
    """`roots` is what a verifier trusts; `answer` is what the authority sends back."""

    def __init__(self, folder: Path, name: str = "time authority") -> None:
        self.folder, self.roots = folder, folder / "root.pem"
        folder.mkdir(parents=True)
        (folder / "serial").write_text("01\n")
        (folder / "conf").write_text(CONFIG.format(name=name, folder=folder))
        new = ["req", "-config", folder / "conf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._run(
            *new, "-x509", "-days", "30", "-extensions", "root", "-keyout", folder / "root.key", "-out", self.roots
        )
        self._run(*new, "-subj", f"/CN={name} signer", "-keyout", folder / "signer.key", "-out", folder / "signer.csr")
        self._run(
            "x509", "-req", "-in", folder / "signer.csr", "-CA", self.roots, "-CAkey", folder / "root.key",
            "-days", "30", "-set_serial", "2",
            "-extfile", folder / "conf", "-extensions", "signer", "-out", folder / "signer.pem",
        )  # fmt: skip

    def answer(self, request: Path, out: Path) -> Path:
        self._run("ts", "-reply", "-config", self.folder / "conf", "-queryfile", request, "-out", out)
        return out

    def _run(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=self.folder)
