"""A certificate for 127.0.0.1, made with the standard library alone.

kubectl sends a token only over TLS, so the stand-in must speak it, and a private key in a repository would
only set off secret scanners. ECDSA on P-256 is small enough to write down here; it protects nothing.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time

# P-256
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None


def _add(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % _P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, _P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(scalar: int) -> tuple[int, int]:
    result: Point = None
    power: Point = _G
    while scalar:
        if scalar & 1:
            result = _add(result, power)
        power = _add(power, power)
        scalar >>= 1
    assert result is not None
    return result


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def _int(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    body = bytearray([first * 40 + second])
    for arc in rest:
        chunk = [arc & 0x7F]
        while arc := arc >> 7:
            chunk.append(arc & 0x7F | 0x80)
        body += bytes(reversed(chunk))
    return _der(6, bytes(body))


def _seq(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _extension(oid: str, value: bytes, critical: bool = False) -> bytes:
    return _seq(_oid(oid), _der(1, b"\xff") if critical else b"", _der(4, value))


def _pem(label: str, body: bytes) -> str:
    text = base64.encodebytes(body).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"


def make_certificate(
    hosts: tuple[bytes, ...] = (bytes([127, 0, 0, 1]),), days: tuple[int, int] = (-1, 30)
) -> tuple[str, str]:
    """(certificate, private key) as PEM: self-signed, its own authority, valid for the given IP addresses.

    ``days``: from when to when, counted from now."""
    private = secrets.randbelow(_N - 1) + 1
    x, y = _times(private)
    public = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    algorithm = _seq(_oid("1.2.840.10045.4.3.2"))
    curve = _seq(_oid("1.2.840.10045.2.1"), _oid("1.2.840.10045.3.1.7"))
    name = _seq(_der(0x31, _seq(_oid("2.5.4.3"), _der(0x0C, b"lab-kubernetes-ca"))))
    begin, end = (time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * day)) for day in days)
    alternatives = _seq(*(_der(0x87, host) for host in hosts), _der(0x82, b"localhost"))
    extensions = _seq(
        _extension("2.5.29.19", _seq(_der(1, b"\xff")), critical=True),
        _extension("2.5.29.15", _der(3, b"\x02\x84"), critical=True),
        _extension("2.5.29.14", _der(4, hashlib.sha1(public, usedforsecurity=False).digest())),
        _extension("2.5.29.17", alternatives),
    )
    body = _seq(
        _der(0xA0, _int(2)),
        _int(secrets.randbits(120) | 1),
        algorithm,
        name,
        _seq(_der(0x17, begin.encode()), _der(0x17, end.encode())),
        name,
        _seq(curve, _der(3, b"\0" + public)),
        _der(0xA3, extensions),
    )
    certificate = _seq(body, algorithm, _der(3, b"\0" + _sign(private, body)))
    secret = _der(4, private.to_bytes(32, "big"))
    key = _seq(_int(1), secret, _der(0xA0, _oid("1.2.840.10045.3.1.7")), _der(0xA1, _der(3, b"\0" + public)))
    return _pem("CERTIFICATE", certificate), _pem("EC PRIVATE KEY", key)


def _sign(private: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    nonce = secrets.randbelow(_N - 1) + 1
    r = _times(nonce)[0] % _N
    return _seq(_int(r), _int((digest + r * private) * pow(nonce, -1, _N) % _N))
