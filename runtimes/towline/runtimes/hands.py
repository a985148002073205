"""The tools a person uses by hand: check, repos, tags, inspect, pull and scan, against one registry."""

from __future__ import annotations

import argparse
import os
import platform as machine_platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from towline.core import LIMITS, RemoteProtocolError, Step, TowlineError
from towline.core.agent import rfc3339
from towline.core.registry import (
    Details,
    ImageIndex,
    ImageReference,
    Listing,
    Manifest,
    Platform,
    Registry,
    check,
    get_manifest,
    list_details,
    list_repositories,
    list_tags,
    resolve_image,
    resolve_manifest,
)
from towline.core.scan import ScanOptions, ScanOutcome, pull_image, scan_image
from towline.drivers.blob_folder import OciLayoutStore
from towline.runtimes.logs import plain
from towline.runtimes.output import error_lines, exit_code, say, size, write_json, write_lines, write_table
from towline.runtimes.probe import examine
from towline.runtimes.progress import ProgressLines
from towline.runtimes.session import Session, image_session, typed_login

DONE, NOT_SO, UNREACHABLE = 0, 1, 3
# A certificate that is not trusted is an answer to a check; to anything else it is a peer out of reach.
_OUT_OF_REACH: Final = frozenset({"REGISTRY_UNREACHABLE", "TIMEOUT", "PROXY_ERROR"})


def run_tool(command: str, arguments: argparse.Namespace) -> int:
    """Run one tool; return its exit code. Raises TowlineError."""
    # Asked for once, whatever number of images is named.
    arguments.login = typed_login(arguments)
    tools: dict[str, Callable[[argparse.Namespace], int]] = {
        "check": _check, "repos": _repos, "catalog": _repos, "tags": _tags, "ls": _tags,
        "inspect": _inspect, "pull": _pull, "scan": _scan,
    }  # fmt: skip
    return tools[command](arguments)


# ── the tools ──────────────────────────────────────────────────────────────────
def _check(arguments: argparse.Namespace) -> int:
    session = Session(arguments, arguments.registry)
    steps = session.probe()
    if all(step.ok for step in steps):
        steps += session.run(check(session.registry) if arguments.login_only else examine(session.registry))
    failed = next((step for step in steps if not step.ok), None)
    if _form(arguments) == "json":
        write_json({"ok": failed is None, "checks": steps})
    else:
        write_table(
            [
                (step.name, "ok" if step.ok else "FAIL", f"{step.ms:4.0f} ms" if step.ok else "", step.detail)
                for step in steps
            ]
        )
        for step in steps:
            if step.hint:
                say(f"hint: {plain(step.hint)}")
    return DONE if failed is None else UNREACHABLE if failed.code in _OUT_OF_REACH else NOT_SO


def _repos(arguments: argparse.Namespace) -> int:
    session = Session(arguments, arguments.registry)
    listing = session.run(list_repositories(session.registry, partial=True, **_paging(arguments)))
    return _show_listing(arguments, listing, "repositories", {})


def _tags(arguments: argparse.Namespace) -> int:
    image, session = image_session(arguments, arguments.image)
    if arguments.long:
        return _show_details(
            arguments,
            session.run(list_details(session.registry, image.path, partial=True, **_paging(arguments))),
            image,
        )
    listing = session.run(list_tags(session.registry, image.path, partial=True, **_paging(arguments)))
    return _show_listing(arguments, listing, "tags", {"repository": image.path})


def _inspect(arguments: argparse.Namespace) -> int:
    image, session = image_session(arguments, arguments.image)
    if arguments.raw:
        sys.stdout.buffer.write(session.run(_raw(session.registry, image, arguments.platform)))
        return DONE
    if arguments.platform == "all":
        manifest = session.run(get_manifest(session.registry, image.path, image.reference))
        return _show_platforms(arguments, manifest)
    resolved = session.run(resolve_image(session.registry, image.path, image.reference, _platform(arguments)))
    if arguments.show_config:
        sys.stdout.buffer.write(resolved.config_raw)
        return DONE
    total = sum(layer.size for layer in resolved.layers)
    if _form(arguments) == "json":
        write_json(
            {
                "name": image.name,
                "tag": image.tag,
                "digest": resolved.manifest.digest,
                "indexDigest": resolved.index_digest,
                "mediaType": resolved.manifest.media_type,
                "platform": str(resolved.platform),
                "created": resolved.config.created,
                "sizeBytes": total,
                "layers": [
                    {"digest": it.digest, "sizeBytes": it.size, "mediaType": it.media_type} for it in resolved.layers
                ],
            }
        )
        return DONE
    plural = "s" if len(resolved.layers) != 1 else ""
    rows = [("name", arguments.image), ("digest", f"{resolved.manifest.digest}  ({resolved.manifest.media_type})")]
    if resolved.index_digest:
        rows.append(("index", resolved.index_digest))
    rows.append(("platform", str(resolved.platform)))
    if resolved.config.created:
        rows.append(("created", resolved.config.created))
    rows.append(("size", f"{size(total)} in {len(resolved.layers)} layer{plural}"))
    rows += [("layer", f"{layer.digest}  {size(layer.size)}  {layer.media_type}") for layer in resolved.layers]
    write_table(rows)
    return DONE


def _raw(registry: Registry, image: ImageReference, platform: str | None) -> Step[bytes]:
    if platform in (None, "all"):
        return (yield from get_manifest(registry, image.path, image.reference)).raw
    found = yield from resolve_manifest(registry, image.path, image.reference, Platform.parse(str(platform)))
    return found.manifest.raw


def _show_platforms(arguments: argparse.Namespace, manifest: Manifest) -> int:
    """Show what an index leads to; an image without one leads to itself."""
    parsed = manifest.parsed
    if isinstance(parsed, ImageIndex):
        found = [(str(it.platform or "none"), it.digest, it.media_type) for it in parsed.manifests]
    else:
        found = [("none", manifest.digest, manifest.media_type)]
    if _form(arguments) == "json":
        entries = [{"platform": name, "digest": digest, "mediaType": kind} for name, digest, kind in found]
        write_json({"name": arguments.image, "digest": manifest.digest, "platforms": entries})
    else:
        write_table(found)
    return DONE


def _pull(arguments: argparse.Namespace) -> int:
    image, session = image_session(arguments, arguments.image)
    wanted = None if arguments.platform in (None, "all") else Platform.parse(arguments.platform)
    _check_writable(Path(arguments.path))
    store = OciLayoutStore(Path(arguments.path))
    with _lines(arguments) as lines:
        pulled = session.run(
            pull_image(session.registry, image.path, image.reference, wanted),
            on_event=lines.take, store=store, total=LIMITS.time_pull,
        )  # fmt: skip
    store.finish([pulled.index_entry(image.reference if image.digest is None else None)])
    for warning in pulled.warnings if not arguments.quiet else ():
        say(f"towline: warning: {plain(warning)}")
    if _form(arguments) == "json":
        write_json(
            {
                "path": arguments.path,
                "digest": pulled.root.digest,
                "complete": not pulled.warnings,
                "blobs": pulled.blobs,
                "bytes": pulled.bytes,
            }
        )
    else:
        write_table(
            [
                ("digest", pulled.root.digest),
                ("pulled", f"{pulled.blobs} blobs, {size(pulled.bytes)}, every digest proven"),
            ]
        )
    return DONE


def _scan(arguments: argparse.Namespace) -> int:
    several = len(arguments.image) > 1
    documents: list[dict[str, Any]] = []
    code = DONE
    for text in arguments.image:
        try:
            outcome = _scan_one(arguments, text)
        except TowlineError as error:
            if not several or arguments.debug:
                raise
            # The others are scanned all the same; the worst decides what the shell gets.
            say(*error_lines(error, text))
            code = max(code, exit_code(error))
            documents.append({"image": text, "error": {"code": error.code, "message": error.message}})
            continue
        for warning in outcome.warnings if not arguments.quiet else ():
            say(f"towline: warning: {plain(warning)}")
        documents.append({"image": text, "scanResults": outcome.scan_results, "analytics": outcome.analytics})
        if _form(arguments) == "plain":
            write_lines([f"{package.name} {package.version}" for package in outcome.inventory.packages])
        elif _form(arguments) == "table":
            if several:
                write_lines([text])
            _show_inventory(outcome)
    if _form(arguments) == "json":
        write_json(documents if several else documents[0])
    return code


def _scan_one(arguments: argparse.Namespace, text: str) -> ScanOutcome:
    image, session = image_session(arguments, text)
    options = ScanOptions(
        include=tuple(arguments.glob), exclude=tuple(arguments.exclude), max_image_bytes=arguments.max_image_bytes
    )
    with _lines(arguments) as lines:
        return session.run(
            scan_image(session.registry, image.path, image.reference, _platform(arguments), options, image),
            on_event=lines.take, total=LIMITS.time_pull,
        )  # fmt: skip


def _show_inventory(outcome: ScanOutcome) -> None:
    packages = outcome.inventory.packages
    write_table(
        [
            ("PACKAGE", "VERSION", "ARCH", "SOURCE"),
            *((p.name, p.version, p.arch or "", p.source or "") for p in packages),
        ]
    )
    found = outcome.inventory.os
    read = f"{outcome.layers} layer{'s' if outcome.layers != 1 else ''}, {size(outcome.bytes_downloaded)}"
    say(f"{found.id} {found.version_id}: {len(packages)} packages in {read}")


def _show_listing(arguments: argparse.Namespace, listing: Listing, name: str, more: dict[str, Any]) -> int:
    if _form(arguments) == "json":
        write_json({**more, name: listing.items, "complete": listing.complete, "warnings": listing.warnings})
    else:
        write_lines(listing.items)
    for warning in listing.warnings:
        say(f"towline: warning: {'' if listing.complete else 'list incomplete: '}{plain(warning)}")
    return DONE if listing.complete else NOT_SO


def _show_details(arguments: argparse.Namespace, found: Details, image: ImageReference) -> int:
    if _form(arguments) == "json":
        items = [
            {
                "tag": it.tag,
                "digest": it.digest,
                "lastPushed": None if it.pushed_at is None else rfc3339(it.pushed_at),
                "sizeBytes": it.size,
                "mediaType": it.media_type,
            }
            for it in found.items
        ]
        told = {"repository": image.path, "items": items, "complete": found.complete, "warnings": found.warnings}
        write_json(told)
    else:
        write_table(
            [
                (
                    it.tag,
                    it.digest or "-",
                    "-" if it.pushed_at is None else rfc3339(it.pushed_at),
                    "-" if it.size is None else size(it.size),
                )
                for it in found.items
            ]
        )
    for warning in found.warnings:
        say(f"towline: warning: {'' if found.complete else 'list incomplete: '}{plain(warning)}")
    return DONE if found.complete else NOT_SO


def _lines(arguments: argparse.Namespace) -> ProgressLines:
    return ProgressLines(wanted=not arguments.no_progress, quiet=arguments.quiet, verbose=arguments.verbose)


def _check_writable(folder: Path) -> None:
    """Raise before a byte is downloaded where none could be kept."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise RemoteProtocolError("bad-request", f"expected a folder to write to, got the file {there}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RemoteProtocolError("bad-request", f"expected a folder to write to, got no right to write in {there}")


# ── reading the command line ───────────────────────────────────────────────────
def _paging(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"page_size": arguments.page_size, "via": arguments.via}


def _form(arguments: argparse.Namespace) -> str:
    form: str = arguments.output or ("table" if sys.stdout.isatty() else "plain")
    return form


def _platform(arguments: argparse.Namespace) -> Platform:
    if arguments.platform:
        return Platform.parse(arguments.platform)
    known = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}
    name = machine_platform.machine()
    return Platform.parse(f"linux/{known.get(name, name)}")
