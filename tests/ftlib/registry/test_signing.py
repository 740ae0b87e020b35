"""Signatures that OpenSSL agrees with, and everything that must not pass for one."""

import base64
import json
from pathlib import Path

import pytest

from ftlib.errors import IntegrityError, RecipeError
from ftlib.registry import ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.registry.signing import PAYLOAD_TYPE, PublicKey, Signer
from ftlib.storage import LocalStore
from tests.ftlib.registry.kit import FILES, fine, make_keys, openssl, staged, stored


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path, "ours")


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(LocalStore(tmp_path / "r"))


def publish(registry: ModelRegistry, tmp_path: Path, key: Path | None, run: str = "k"):
    manifest, folder = staged(tmp_path / "staging", FILES)
    signer = Signer(key) if key else None
    return registry.publish(manifest, folder, run, fine, tmp_path, signer)[0]


def signature_file(registry: ModelRegistry) -> str:
    (path,) = stored(registry.store, "models/m/signatures")
    return path


def test_a_signed_version_is_what_its_key_says(registry: ModelRegistry, tmp_path: Path, keys: tuple[Path, Path]):
    version = publish(registry, tmp_path, keys[0])
    key = PublicKey(keys[1])
    assert registry.verify(version, key) == []
    assert registry.pull(version, tmp_path / "out", key)
    assert not registry.pull(version, tmp_path / "out", key)
    assert fsck(registry).unreferenced == ()


def test_openssl_agrees(registry: ModelRegistry, tmp_path: Path, keys: tuple[Path, Path]):
    """The standard's PAE written out by hand; nothing of ours but the stored bytes."""
    version = publish(registry, tmp_path, keys[0])
    envelope = json.loads(registry.store.read(signature_file(registry)) or b"")
    payload = base64.b64decode(envelope["payload"])
    assert payload == registry.store.read(f"models/m/manifests/{version.manifest}.json")
    signed = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    said = openssl("dgst", "-sha256", "-verify", str(keys[1]), "-signature", str(tmp_path / "sig"), input=signed)
    assert said == b"Verified OK\n"
    der = openssl("pkey", "-pubin", "-in", str(keys[1]), "-outform", "DER")
    digest = openssl("dgst", "-sha256", "-r", input=der).split()[0].decode()
    assert envelope["signatures"][0]["keyid"] == digest == Path(signature_file(registry)).stem


def test_the_same_files_published_again_by_another_signer(registry: ModelRegistry, tmp_path: Path):
    publish(registry, tmp_path, None)
    for name in ("one", "two", "two"):
        private, public = make_keys(tmp_path, name)
        version = publish(registry, tmp_path, private)
        assert registry.verify(version, PublicKey(public)) == []
    assert len(registry.versions("m")) == 1
    assert len(stored(registry.store, "models/m/signatures")) == 3


@pytest.mark.parametrize("harm", ["none", "other key", "other payload", "flipped", "not base64", "no JSON", "renamed"])
def test_what_is_no_signature_stops_before_the_download(
    registry: ModelRegistry, tmp_path: Path, keys: tuple[Path, Path], harm: str
):
    version = publish(registry, tmp_path, None if harm == "none" else keys[0])
    key = PublicKey(make_keys(tmp_path, "other")[1] if harm == "other key" else keys[1])
    if harm not in ("none", "other key"):
        path = signature_file(registry)
        envelope = json.loads(registry.store.read(path) or b"")
        sig = envelope["signatures"][0]
        if harm == "other payload":
            envelope["payload"] = base64.b64encode(b"{}").decode()
        elif harm == "flipped":
            data = bytearray(base64.b64decode(sig["sig"]))
            data[-1] ^= 1
            sig["sig"] = base64.b64encode(data).decode()
        elif harm == "not base64":
            sig["sig"] = "!"
        elif harm == "renamed":
            sig["keyid"] = "ab" * 32
        registry.store.discard(path)
        registry.store.create(path, b"?" if harm == "no JSON" else json.dumps(envelope).encode())
    for call in (registry.verify, lambda v, k: registry.pull(v, tmp_path / "out", k)):
        with pytest.raises(IntegrityError) as error:
            call(version, key)
        assert "\n" not in str(error.value)
        assert "m@1" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_signature_of_another_version_does_not_count(registry: ModelRegistry, tmp_path: Path, keys):
    publish(registry, tmp_path, keys[0])
    signed = registry.store.read(signature_file(registry)) or b""
    manifest, folder = staged(tmp_path / "evil", {"model.safetensors": "evil"})
    version, _ = registry.publish(manifest, folder, "evil", fine, tmp_path)
    key = PublicKey(keys[1])
    registry.store.create(f"models/m/signatures/{version.manifest}/{key.keyid}.json", signed)
    with pytest.raises(IntegrityError, match="m@2 has a signature of something else"):
        registry.pull(version, tmp_path / "out", key)


class TestKeys:
    def test_keys_on_other_curves_than_p_256_are_refused(self, tmp_path: Path):
        private, public = make_keys(tmp_path, "other", "P-384")
        for read, path in ((Signer, private), (PublicKey, public)):
            with pytest.raises(RecipeError, match="allowed is ECDSA on P-256"):
                read(path)

    def test_keys_of_other_kinds_than_ecdsa_are_refused(self, tmp_path: Path):
        openssl("genpkey", "-algorithm", "ED25519", "-out", str(tmp_path / "ed.pem"))
        with pytest.raises(RecipeError, match="allowed is ECDSA on P-256"):
            Signer(tmp_path / "ed.pem")

    @pytest.mark.parametrize("read", [Signer, PublicKey])
    def test_no_key_at_all(self, tmp_path: Path, read: type):
        (tmp_path / "text").write_text("hello")
        for path in (tmp_path / "text", tmp_path / "absent", tmp_path):
            with pytest.raises(RecipeError, match=r"is no (private|public) key in a PEM file") as error:
                read(path)
            assert "\n" not in str(error.value)

    def test_a_key_with_a_password(self, tmp_path: Path, keys: tuple[Path, Path]):
        locked = tmp_path / "locked.pem"
        openssl("pkey", "-in", str(keys[0]), "-aes256", "-passout", "pass:x", "-out", str(locked))
        with pytest.raises(RecipeError, match="without a password"):
            Signer(locked)
