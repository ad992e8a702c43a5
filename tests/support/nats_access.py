"""NATS servers that do not let everybody in: credentials files and TLS."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["MUTUAL_CONFIG", "TLS", "TLS_CONFIG", "nkey_user", "with_operator"]

TLS = Path(__file__).parent.parent / "transport" / "tls"
TLS_CONFIG = f"""
tls {{ cert_file: "{TLS / "server.pem"}", key_file: "{TLS / "server-key.pem"}" }}
"""
MUTUAL_CONFIG = f"""
tls {{ cert_file: "{TLS / "server.pem"}", key_file: "{TLS / "server-key.pem"}"
       ca_file: "{TLS / "ca.pem"}", verify: true }}
"""


def _jwt(claims: dict[str, Any], signer: Any) -> str:
    """Return ``claims`` as the signed token that NATS uses."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {"iat": int(time.time()), "iss": signer.public_key.decode(), **claims}
    digest = hashlib.sha512(json.dumps(claims).encode()).digest()[:32]
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = part(json.dumps(claims).encode())
    return f"{head}.{body}.{part(signer.sign(f'{head}.{body}'.encode()))}"


def _keys(prefix: int) -> tuple[Any, bytes]:
    library: Any = nkeys
    seed: bytes = library.encode_seed(os.urandom(32), prefix)
    return library.from_seed(bytearray(seed)), seed


def nkey_user(folder: Path) -> tuple[str, Path]:
    """Return the public key of a new user, and the file that has its seed."""
    keys, seed = _keys(nkeys.PREFIX_BYTE_USER)
    public: str = keys.public_key.decode()
    file = folder / f"{public}.nk"
    file.write_bytes(seed + b"\n")
    return public, file


def with_operator(folder: Path) -> tuple[str, Path]:
    """Return the configuration of a server with an operator, and a user's file."""
    operator, _ = _keys(nkeys.PREFIX_BYTE_OPERATOR)
    account, _ = _keys(nkeys.PREFIX_BYTE_ACCOUNT)
    system, _ = _keys(nkeys.PREFIX_BYTE_ACCOUNT)
    user, seed = _keys(nkeys.PREFIX_BYTE_USER)
    unlimited = {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        "wildcards": True,
    }  # fmt: skip
    without_jetstream = {
        name: limit
        for name, limit in unlimited.items()
        if name not in ("mem_storage", "disk_storage", "streams", "consumer")
    }
    operator_token = _jwt(
        {
            "sub": operator.public_key.decode(),
            "name": "O",
            "nats": {"type": "operator", "version": 2},
        },
        operator,
    )
    account_token, system_token = (
        _jwt(
            {
                "sub": keys.public_key.decode(),
                "name": name,
                "nats": {"type": "account", "version": 2, "limits": limits},
            },
            operator,
        )
        for keys, name, limits in ((account, "A", unlimited), (system, "SYS", without_jetstream))
    )
    user_token = _jwt(
        {
            "sub": user.public_key.decode(),
            "name": "U",
            "nats": {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
        },
        account,
    )
    creds = folder / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n",
        encoding="utf-8",
    )
    account_key, system_key = account.public_key.decode(), system.public_key.decode()
    config = (
        f"operator: {operator_token}\nresolver: MEMORY\nsystem_account: {system_key}\n"
        f"resolver_preload: {{ {account_key}: {account_token}\n{system_key}: {system_token} }}\n"
    )
    return config, creds
