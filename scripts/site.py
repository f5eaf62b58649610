"""
What mkdocs cannot do by itself: the repository is read in two ways, as files and as a site, and links work in both.

- Documents that stand where they belong (`benchmarks/README.md`, changelogs, the examples' READMEs) are pages of the site too.
- A link out of `docs/` leads to such a page, or to the file itself, which is copied into the site.
- A page of the navigation that is not there is left out of it, and one that it does not name is found under "More".
"""

from __future__ import annotations

import os.path
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(\]\(|src=\"|href=\")([^)\s\"#]+)(#[^)\s\"]*)?")
_FENCE = re.compile(r"(```.*?```)", re.DOTALL)
_NOT_OURS = re.compile(r"[a-z]+:|/|#")


def pages_outside() -> list[str]:
    """Paths of the documents outside of `docs/` that are pages of the site."""
    found = ["ARCHITECTURE.md", "benchmarks/README.md"]
    for pattern in ("alphavel/*/CHANGELOG.md", "examples/**/README.md"):
        found += [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(pattern))]
    return [path for path in found if (ROOT / path).is_file()]


def on_config(config: MkDocsConfig) -> None:
    """Have the navigation name what is there."""
    named: list[str] = []
    config.nav = _existing(config.nav, named)
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    others = [page for page in [*pages, *pages_outside()] if page not in named]
    if others:
        config.nav.append({"More": others})


def _existing(nav: Any, named: list[str]) -> Any:
    """Leave out what is not there; a pattern stands for all documents that it matches. `named` collects the pages."""
    if isinstance(nav, list):
        kept = [_existing(entry, named) for entry in nav]
        return [page for entry in kept if entry for page in (entry if isinstance(entry, list) else [entry])]
    if isinstance(nav, dict):
        return {title: kept for title, entry in nav.items() if (kept := _existing(entry, named))}
    if "*" in nav:
        found = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(nav))]
    else:
        found = [nav] if (ROOT / "docs" / nav).is_file() or (ROOT / nav).is_file() else []
    named += found
    return found if "*" in nav else "".join(found)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere, and the files that pages link to."""
    for path in pages_outside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    documents = [
        ROOT / "docs" / file.src_uri for file in files.documentation_pages() if (ROOT / "docs" / file.src_uri).is_file()
    ]
    for document in [*documents, *(ROOT / path for path in pages_outside())]:
        for target in _linked(document):
            if target not in files.src_uris and (ROOT / target).is_file():
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to where the site has what they lead to in the repository."""
    here = page.file.src_uri
    in_docs = (ROOT / "docs" / here).is_file()

    def moved(match: re.Match[str]) -> str:
        before, link, anchor = match[1], match[2], match[3] or ""
        if _NOT_OURS.match(link):
            return match[0]
        source = f"docs/{here}" if in_docs else here
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if (ROOT / target).is_dir() and (ROOT / target / "README.md").is_file():
            target = f"{target}/README.md"
        target = target.removeprefix("docs/")
        if target not in files.src_uris:
            return match[0]  # mkdocs says that it leads nowhere
        return f"{before}{os.path.relpath(target, posixpath.dirname(here) or '.')}{anchor}"

    return "".join(
        piece if number % 2 else _LINK.sub(moved, piece)
        for number, piece in enumerate(re.split(r"(```.*?```)", markdown, flags=re.DOTALL))
    )


def _linked(document: Path) -> set[str]:
    """What of the repository a document links to, outside of `docs/`."""
    found = set()
    for match in _LINK.finditer(document.read_text(encoding="utf-8")):
        if not _NOT_OURS.match(match[2]):
            target = posixpath.normpath(posixpath.join(document.parent.relative_to(ROOT).as_posix(), match[2]))
            if not target.startswith("docs/"):
                found.add(target)
    return found
