"""What a named corpus is made of: packages, and the domains cut from them.

One TOML file beside this module per named corpus. A package is pinned by
version and sha256 wherever its registry keeps old versions; one that drifts
(Debian's security updates replace files) carries `drifts`, the reason why it
is not pinned, and its sha256 is then recorded in the provenance instead.

Limits: the manifests are read, never written, here.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

from mixlab.errors import FetchFailed, UnknownCatalogue

# Part of every fingerprint: raise it when an extractor's output changes, and
# finished domains are extracted anew from the cached packages.
EXTRACTION_VERSION = 1


@dataclass(frozen=True)
class Package:
    """One file of a package registry, by its name there.

    `client` is pip, apt or npm. `bytes` is the expected size and only steers
    the progress bar. `sha256` is None exactly where `drifts` gives the reason.
    """

    key: str
    client: str
    name: str
    licence: str
    version: str | None = None
    sha256: str | None = None
    drifts: str | None = None
    bytes: int = 1_000_000
    licence_members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.client not in ("pip", "apt", "npm"):
            raise FetchFailed(
                f"Package {self.key!r} wants the client {self.client!r}; use pip, apt or npm."
            )
        if self.drifts is None and (self.version is None or self.sha256 is None):
            raise FetchFailed(
                f"Package {self.key!r} is not pinned; give version and sha256, "
                "or say in `drifts` why it can't be."
            )

    @property
    def requirement(self) -> str:
        """The package as messages name it: `pip django 5.2.19`."""
        return " ".join(part for part in (self.client, self.name, self.version) if part)


@dataclass(frozen=True)
class Part:
    """Members of one package that one extractor turns into documents."""

    package: str
    extractor: str
    members: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DomainManifest:
    """One domain: its parts in order, its licence and where the text is from.

    `optional` domains are left out, with the reason, where a client or a
    package is not to be had. `near_duplicate_share` drops documents of whose
    8-word shingles more than that share stood in documents kept before.
    """

    name: str
    summary: str
    licence: str
    provenance: str
    parts: tuple[Part, ...]
    evaluation_sets: tuple[str, ...] = ()
    optional: bool = False
    minimum_characters: int = 100
    near_duplicate_share: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A named corpus."""

    name: str
    summary: str
    packages: Mapping[str, Package]
    domains: Mapping[str, DomainManifest]

    def packages_of(self, domain: str) -> list[Package]:
        """The packages of a domain, each once, in the order of its parts."""
        keys = dict.fromkeys(part.package for part in self.domains[domain].parts)
        return [self.packages[key] for key in keys]

    def fingerprint(self, domain: str) -> str:
        """Changes whenever the domain's text could: its parts, its packages, the extraction."""
        described = {
            "version": EXTRACTION_VERSION,
            "domain": asdict(self.domains[domain]),
            "packages": [asdict(package) for package in self.packages_of(domain)],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def catalogue_names() -> list[str]:
    """The named corpora that `fetch` knows, sorted."""
    files = resources.files(__package__).iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def load_manifest(name: str) -> Manifest:
    """The manifest of a named corpus; raises UnknownCatalogue."""
    if name not in catalogue_names():
        known = ", ".join(catalogue_names())
        raise UnknownCatalogue(f"No named corpus {name!r}; there are: {known}.")
    return parse_manifest(resources.files(__package__).joinpath(f"{name}.toml").read_text("utf-8"))


def parse_manifest(text: str) -> Manifest:
    """A manifest from its TOML; unknown keys are refused by the dataclasses."""
    table = tomllib.loads(text)
    packages = {key: _package(key, entry) for key, entry in table["packages"].items()}
    domains = {name: _domain(name, entry) for name, entry in table["domains"].items()}
    for domain in domains.values():
        for part in domain.parts:
            if part.package not in packages:
                raise FetchFailed(
                    f"Domain {domain.name!r} uses the package {part.package!r}, which the "
                    f"manifest does not list; add [packages.{part.package}]."
                )
    return Manifest(table["name"], table["summary"], packages, domains)


def _package(key: str, entry: Mapping[str, Any]) -> Package:
    values = {"name": key, **entry, "licence_members": tuple(entry.get("licence_members", ()))}
    return Package(key=key, **values)


def _domain(name: str, entry: Mapping[str, Any]) -> DomainManifest:
    parts = tuple(_part(part) for part in entry["parts"])
    sets = tuple(entry.get("evaluation_sets", ()))
    return DomainManifest(**{**entry, "name": name, "parts": parts, "evaluation_sets": sets})


def _part(entry: Mapping[str, Any]) -> Part:
    members, exclude = tuple(entry["members"]), tuple(entry.get("exclude", ()))
    return Part(**{**entry, "members": members, "exclude": exclude})
