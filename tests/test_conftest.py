"""The shared fixtures keep their word: named skips here, failures in CI, images that build."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needed import need_peer

HERE = Path(__file__).parent


def test_a_missing_peer_is_a_named_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing peer: no-such-program"):
        need_peer("no-such-program")


def test_a_missing_peer_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing peer: no-such-program"):
        need_peer("no-such-program")


def test_the_corpus_has_every_image_that_is_expected(corpus: Path, expected: Callable[[str], dict[str, Any]]) -> None:
    names = sorted(path.stem for path in (HERE / "corpus" / "expected").glob("*.json"))
    for name in names:
        assert (corpus / f"{name}.oci" / "index.json").is_file(), name
        assert json.loads((corpus / f"{name}.json").read_text())
        assert expected(name)["truth"]


def test_peers_without_anything_names_each_and_fails_only_in_ci(tmp_path: Path) -> None:
    """On a machine with no peers and no installer, the script says what is missing and lets the rest run."""
    (tmp_path / "tests" / "interop" / "stock" / "npm").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "tests" / "peers.sh"
    script.write_text((HERE / "peers.sh").read_text().replace('PATH="$PATH:/usr/sbin:/sbin"', 'PATH="$PATH"'))
    package = "tests/interop/stock/npm/package.json"
    (tmp_path / package).write_text((HERE.parent / package).read_text())
    for tool in ("bash", "dirname", "sed", "id", "touch"):
        (tmp_path / "bin" / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    environment = {"PATH": str(tmp_path / "bin"), "PEERS": "no"}
    told = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stderr
    for name in ("skopeo", "docker-registry", "nginx", "node", "npm", "snyk-broker"):
        assert f"missing {name};" in told.stderr
    assert not (tmp_path / ".peers").exists()
    told = subprocess.run(
        ["bash", script], env={**environment, "CI": "true"}, capture_output=True, text=True, timeout=30
    )
    assert told.returncode == 1


def test_peers_are_installed_with_their_services_forbidden(tmp_path: Path) -> None:
    """apt-get is called for what is missing, while policy-rc.d says no; afterwards the system is as it was."""
    package = "tests/interop/stock/npm"
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / package / "package.json").write_text((HERE.parent / package / "package.json").read_text())
    policy, log = tmp_path / "policy-rc.d", tmp_path / "log"
    script = tmp_path / "tests" / "peers.sh"
    text = (HERE / "peers.sh").read_text()
    assert "policy=/usr/sbin/policy-rc.d" in text
    text = text.replace("policy=/usr/sbin/policy-rc.d", f"policy={policy}").replace(":/usr/sbin:/sbin", "")
    script.write_text(text)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "sed", "touch", "tee", "chmod", "rm", "env", "sh"):
        (tools / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    for name, body in (
        ("apt-get", f'echo "$1 ${{*: -3}} policy=$("{policy}"; echo $?)" >> {log}\nexit 1'),
        ("id", "echo 0"),
        ("skopeo", "exit 0"),
    ):
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": str(tools)}
    told = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stderr
    assert "installing zstd curl openssl docker-registry nginx apache2-utils nodejs npm" in told.stderr
    assert log.read_text().startswith("update ")
    assert "policy=101" in log.read_text()
    assert "apt-get cannot read its package lists" in told.stderr
    assert not policy.exists()
    assert not (tmp_path / ".peers").exists()


def test_the_lock_file_names_no_host() -> None:
    lock = json.loads((HERE / "interop" / "stock" / "npm" / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]
    assert len(packages) > 100
    assert not any("resolved" in package for package in packages)
    assert all("integrity" in package or package.get("link") for package in packages)
    assert os.access(HERE / "peers.sh", os.X_OK)
