"""Signatures over manifests: who published a version, provable without trusting the store.

    models/<name>/signatures/<manifest sha256>/<key id>.json     create-only: a DSSE envelope

DSSE (https://github.com/secure-systems-lab/dsse) with ECDSA over P-256 and SHA-256. A manifest has the digest of every
file, so its signature covers all bytes of the version; not its number, nor what an alias means. The key's id is the
sha256 of its public half (DER), so several keys can sign, and a wrong key is told from a wrong signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.config import Config, user_path
from ftlib.errors import IntegrityError, RecipeError
from ftlib.storage.sealed_records import parse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.reglage.manifest+json"


class Signature(Config):
    """One key's signature."""

    keyid: str
    sig: str
    """Base64 of the DER signature."""


class Envelope(Config):
    """What DSSE calls an envelope."""

    payload: str
    """Base64 of the manifest's bytes."""
    payloadType: str  # the name is the standard's
    signatures: tuple[Signature, ...]


class PublicKey:
    """Checks signatures."""

    def __init__(self, path: Path) -> None:
        """Read a PEM file. Raises RecipeError if it is no public key on P-256."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(user_path(path).read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise RecipeError(
                f"{path} is no public key in a PEM file: {_reason(error)}; write one with openssl pkey -pubout"
            ) from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RecipeError(f"{path} has another kind of key; allowed is ECDSA on P-256 (prime256v1)")
        self.path, self.keyid = str(path), key_id(key)
        self._key = key

    def check(self, envelope: bytes | None, manifest: bytes, signed: str) -> None:
        """Raise IntegrityError unless the envelope is this key's signature of exactly these bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        if envelope is None:
            raise IntegrityError(
                f"{signed} is not signed by {self.path} (key {self.keyid[:16]}…); do not use it, or ask its publisher"
            )
        parsed = parse(Envelope, envelope, f"the signature of {signed}")
        try:
            (sig,) = [base64.b64decode(s.sig, validate=True) for s in parsed.signatures if s.keyid == self.keyid]
            if base64.b64decode(parsed.payload, validate=True) != manifest or parsed.payloadType != PAYLOAD_TYPE:
                raise IntegrityError(f"{signed} has a signature of something else; do not use it")
            self._key.verify(sig, pre_authentication(manifest), ec.ECDSA(hashes.SHA256()))
        except (ValueError, binascii.Error, InvalidSignature) as error:
            raise IntegrityError(
                f"{signed} has a signature that {self.path} did not make: its manifest or the signature was changed; "
                "do not use it"
            ) from error


class Signer:
    """Makes signatures."""

    def __init__(self, path: Path) -> None:
        """Read a PEM file. Raises RecipeError if it is no unencrypted private key on P-256."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(user_path(path).read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RecipeError(f"{path} is no private key in a PEM file without a password: {_reason(error)}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise RecipeError(f"{path} has another kind of key; allowed is ECDSA on P-256 (prime256v1)")
        self.keyid = key_id(key.public_key())
        self._key = key

    def envelope(self, manifest: bytes) -> bytes:
        """Return a manifest's signed envelope."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        sig = self._key.sign(pre_authentication(manifest), ec.ECDSA(hashes.SHA256()))
        signature = Signature(keyid=self.keyid, sig=base64.b64encode(sig).decode())
        payload = base64.b64encode(manifest).decode()
        envelope = Envelope(payload=payload, payloadType=PAYLOAD_TYPE, signatures=(signature,))
        return envelope.model_dump_json(indent=1).encode()


def signature_path(name: str, manifest: str, keyid: str) -> str:
    """Return where a key's signature of a manifest is in the registry."""
    return f"{signatures_path(name, manifest)}/{keyid}.json"


def signatures_path(name: str, manifest: str) -> str:
    """Return the folder of a manifest's signatures in the registry."""
    return f"models/{name}/signatures/{manifest}"


def pre_authentication(payload: bytes) -> bytes:
    """Return DSSE's PAE: the bytes that are signed, in which type and payload cannot be confused."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the sha256 of a public key's DER form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _reason(error: Exception) -> str:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it holds something else"
    return f"{reason}; docs/registry.md says how to make one"
