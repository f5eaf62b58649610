"""The documentation as a site: built without a warning, every page reachable, every link leads somewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from scripts.site import pages_outside
from tests.support import ROOT, run, script


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = run(script("mkdocs"), "build", "--strict", "-d", folder, NO_MKDOCS_2_WARNING="1")
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to by."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        if given.get("src"):
            self.loads.add(given["src"])
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loads.add(given["href"])
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


def test_it_builds_without_a_warning_and_has_every_document(site):
    documents = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")] + pages_outside()
    assert len(documents) > 30
    for document in documents:
        page = re.sub(r"README\.md$", "index.html", document).removesuffix(".md")
        assert (site / page).with_suffix(".html").is_file(), document


def test_every_link_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            assert not parts.scheme, f"{path.name}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchors = pages[target].ids if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in {*anchors, ""}:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        assert [load for load in page.loads if urlsplit(load).netloc] == [], path.name


def test_every_page_is_reached_from_the_first(site, pages):
    seen, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path not in pages or path in seen:
            continue
        seen.add(path)
        waiting += [(path.parent / unquote(urlsplit(link).path)).resolve() for link in pages[path].links if "://" not in link]
    assert set(pages) - seen == set()


def test_links_work_in_the_repository_too():
    """As files, where the site is not built: on a forge, in an editor."""
    broken = []
    documents = [*(ROOT / "docs").rglob("*.md"), *(ROOT / path for path in ["README.md", *pages_outside()])]
    for document in documents:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path = link.partition("#")[0]
            if not re.match(r"[a-z]+:", link) and path and not (document.parent / path).exists():
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []
