"""A Hugging Face Hub on 127.0.0.1 for tests: the real clients talk to it, nothing of theirs is replaced.

::

    with LoopbackHub() as hub:
        run_client(hub, "from huggingface_hub import create_repo; create_repo('me/model')", tmp_path)

Repositories live in memory. Two origins are served, as on the real Hub: the API, and a store of large files. Left out:
Xet storage (clients are told not to use it), uploads in parts, discussions, and pages of long listings.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".arrow", ".bin", ".gguf", ".gz", ".npy", ".npz", ".parquet", ".pt", ".safetensors", ".zip")
LFS_SIZE = 10 * 2**20
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

Answer = tuple[int, bytes, dict[str, str]]


def reply(value, status: int = 200, **headers: str) -> Answer:
    return status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}


class Refused(Exception):
    """A request that is answered with an error; clients choose their exception by the header X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        headers |= {"X-Error-Code": code, "X-Error-Message": message}
        self.answer = reply({"error": message}, status, **headers)


class StoredFile:
    def __init__(self, content: bytes, is_lfs: bool = False):
        self.content, self.is_lfs = content, is_lfs
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.oid = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
        self.etag = self.sha256 if is_lfs else self.oid
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": len(content), "pointerSize": 134}
        self.lfs = {"lfs": lfs} if is_lfs else {}


def card_data(text: str) -> dict:
    """The front matter of a card; raises on invalid YAML."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", text, re.DOTALL)
    return (yaml.safe_load(match[1]) if match else None) or {}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: "Commit | None"
    title: str
    message: str
    author: str
    date: str
    files: dict[str, StoredFile]

    @cached_property
    def card(self) -> dict:
        return card_data(self.files.get("README.md", StoredFile(b"")).content.decode())

    def entry(self, path: str) -> dict | None:
        """A file or a folder as the tree routes describe it."""
        if path in self.files:
            file = self.files[path]
            return {"type": "file", "path": path, "size": len(file.content), "oid": file.oid, **file.lfs}
        is_folder = any(name.startswith(f"{path}/") for name in self.files)
        return {"type": "directory", "path": path, "size": 0, "oid": self.oid} if is_folder else None

    def tree(self, folder: str, recursive: bool) -> list[dict]:
        paths = {*self.files, *(str(parent) for name in self.files for parent in PurePosixPath(name).parents)} - {"."}
        paths = [path for path in sorted(paths) if not folder or path.startswith(f"{folder}/")]
        if not paths:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound", **{"X-Repo-Commit": self.oid})
        depth = min(path.count("/") for path in paths)
        return [self.entry(path) for path in paths if recursive or path.count("/") == depth]


class Repo:
    """Commits, the references to them, and the large files that were uploaded."""

    def __init__(self, kind: str, repo_id: str, user: str, private: bool, sdk: str | None):
        self.kind, self.id, self.private, self.sdk = kind, repo_id, private, sdk
        self.url = repo_id if kind == "model" else f"{kind}s/{repo_id}"
        self.refs, self.commits, self.lfs = {}, {}, {}
        self.commit("refs/heads/main", None, "initial commit", "", user, {".gitattributes": StoredFile(GITATTRIBUTES)})
        self.created = self.refs["refs/heads/main"].date

    def commit(self, ref: str, parent: Commit | None, title: str, message: str, author: str, files: dict) -> Commit:
        oid, date = secrets.token_hex(20), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.commits[oid] = self.refs[ref] = Commit(oid, parent, title, message, author, date, files)
        return self.commits[oid]

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, `refs/...` or the beginning of a hash names."""
        named = [self.refs.get(ref) for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)]
        named += [commit for oid, commit in self.commits.items() if len(revision) > 6 and oid.startswith(revision)]
        if not any(named):
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return next(filter(None, named))

    def labels(self) -> set[str]:
        """The tags that a listing is filtered by, drawn from the card and the files as the Hub does."""
        files, card = self.resolve("main").files, self.resolve("main").card
        config = json.loads(files["config.json"].content) if "config.json" in files else {}
        labels = {config.get("model_type"), *("safetensors" for name in files if name.endswith(".safetensors"))}
        prefixes = {"library_name": "", "pipeline_tag": "", "tags": "", "license": "license:", "datasets": "dataset:"}
        prefixes |= {key: f"{key}:" for key in ("base_model", "task_categories", "size_categories")}
        for key, prefix in {**prefixes, "language": "" if self.kind == "model" else "language:"}.items():
            values = card.get(key) or []
            labels |= {f"{prefix}{value}" for value in ([values] if isinstance(values, str) else values)}
        return labels - {None}

    def info(self, revision: str = "main", blobs: bool = False) -> dict:
        commit, head = self.resolve(revision), self.refs["refs/heads/main"]
        info = {"id": self.id, "author": self.id.split("/")[0], "sha": commit.oid, "private": self.private}
        info |= {"createdAt": self.created, "lastModified": head.date, "tags": sorted(self.labels())}
        info |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "cardData": commit.card}
        shown = {"sdk": self.sdk, **commit.card} if self.kind == "space" else commit.card
        info |= {key: shown[key] for key in ("library_name", "pipeline_tag", "sdk") if key in shown}
        info["siblings"] = [
            {"rfilename": name} | ({"size": len(file.content), "blobId": file.oid, **file.lfs} if blobs else {})
            for name, file in sorted(commit.files.items())
        ]
        return info

    def changed(self, files: dict[str, StoredFile], operations: list[dict]) -> dict[str, StoredFile]:
        """The files after the operations of one commit, in their order."""
        files = dict(files)
        for operation in operations:
            key, value, path = operation["key"], operation["value"], operation["value"]["path"]
            if key == "file":
                files[path] = StoredFile(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.lfs:
                    raise Refused(400, f"The pointer of {path} points to a file that was not uploaded")
                files[path] = StoredFile(self.lfs[value["oid"]], is_lfs=True)
            else:
                folder = path.rstrip("/") + "/" if key == "deletedFolder" else "/"
                gone = [name for name in files if name == path or name.startswith(folder)]
                if not gone:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {name: file for name, file in files.items() if name not in gone}
        return files


class LoopbackHub:
    """The server; a context manager. `token` belongs to `user`, who may also write under `organizations`.

    `requests` logs (method, path, status), status 0 where no answer was sent; never headers or bodies (tokens!).
    """

    def __init__(self, user: str = "me", organizations: tuple[str, ...] = ("org",)):
        self.requests: list[tuple[str, str, int]] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self._names: dict[str, tuple[str, ...]] = {}  # of each token: under what it may write, the user first
        self._read_only: set[str] = set()
        self._failures: list[list] = []
        self._lock = threading.RLock()
        self.token = self.add_user(user, organizations)
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Handler) for _ in range(2)]
        for server, route in zip(self._servers, (self._api, self._storage), strict=True):
            server.answer = partial(self._serve, route)
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "LoopbackHub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._failures.insert(0, [sys.maxsize, "", "", "drop"])  # for clients that keep a connection open
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add_user(self, name: str, organizations: tuple[str, ...] = (), read_only: bool = False) -> str:
        """A further user, or a further token of one; returns the token."""
        token = f"hf_{secrets.token_hex(17)}"
        self._names[token] = (name, *organizations)
        if read_only:
            self._read_only.add(token)
        return token

    def reset(self) -> None:
        """Forget all repositories, requests, and failures that were asked for; users and their tokens stay."""
        with self._lock:
            self.repos.clear()
            self.requests.clear()
            self._failures.clear()

    def fail_next(self, n: int = 1, path_contains: str = "", method: str = "", status: int | str = 503) -> None:
        """Let the next `n` matching requests fail, at either origin (paths of large files begin with `/storage/`).

        `status` is an HTTP status, or how the connection breaks: "drop" (nothing is done, no answer), "lost" (done,
        but the answer never arrives) or "cut" (done, and half of the answer arrives).
        """
        self._failures.append([n, path_contains, method, status])

    def store(self, repo_id: str, files: dict[str, bytes], repo_type: str = "model") -> None:
        """Commit files to a public repository, made if needed, without asking the hub over HTTP."""
        with self._lock:
            key = repo_type, repo_id
            if key not in self.repos:
                self.repos[key] = Repo(*key, repo_id.split("/")[0], private=False, sdk=None)
            repo = self.repos[key]
            parent = repo.resolve("main")
            stored = {name: StoredFile(content, name.endswith(LFS_SUFFIXES)) for name, content in files.items()}
            repo.lfs |= {file.sha256: file.content for file in stored.values() if file.is_lfs}
            repo.commit("refs/heads/main", parent, "stored", "", parent.author, {**parent.files, **stored})

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, without asking it over HTTP."""
        stored = self.repos[repo_type, repo_id].resolve(revision).files
        return {name: file.content for name, file in sorted(stored.items())}

    def environment(self, home: Path | str, token: str | bool = True) -> dict[str, str]:
        """What a client process needs in its environment *before* it imports a library of Hugging Face.

        What the caches in `home` hold is found even without a token: take a fresh one for each client whose access is
        in question. `token=False` is a client that is not logged in.
        """
        caches = {"HUB_CACHE": "hub", "DATASETS_CACHE": "datasets", "EVALUATE_CACHE": "evaluate"}
        caches |= {"MODULES_CACHE": "modules", "ASSETS_CACHE": "assets", "TOKEN_PATH": "token"}
        offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
        access = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token if token is True else token or ""}
        return {
            **access,
            **{f"HF_{name}": str(Path(home, folder)) for name, folder in {"HOME": "", **caches}.items()},
            **{f"HF_HUB_DISABLE_{name}": "1" for name in ("XET", "TELEMETRY", "UPDATE_CHECK", "PROGRESS_BARS")},
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # else evaluate counts downloads at an address outside
            **dict.fromkeys(offline, "0"),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
        }

    def _serve(self, route: Callable[["_Handler"], Answer], request: "_Handler") -> tuple[Answer, int | str | None]:
        """The answer, and how the connection is to break."""
        shown = unquote(request.path)
        with self._lock:
            matching = (f for f in self._failures if f[0] and f[1] in shown and f[2] in ("", request.command))
            found = next(matching, [0, "", "", None])
            found[0], failure = found[0] - 1, found[3]
            try:
                if isinstance(failure, int):
                    raise Refused(failure, "Refused because the test asked for it")
                answer = (0, b"", {}) if failure == "drop" else route(request)
            except Refused as refused:
                answer = refused.answer
            except Exception:
                answer = (500, traceback.format_exc().encode(), {"Content-Type": "text/plain"})
            # Before it is sent: a client that has its answer finds the request in the log.
            self.requests.append((request.command, shown, 0 if failure == "lost" else answer[0]))
        return answer, failure

    def _names_of(self, request: "_Handler", required: bool = False) -> tuple[str, ...]:
        """Under what names a request may write; empty without a token."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self._names:
            raise Refused(401, "Invalid credentials in Authorization header")
        if required and token in self._read_only and request.command != "GET":
            raise Refused(403, "Forbidden: this token may only read")
        if required and not token:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        return self._names.get(token, ())

    def _repo(self, request: "_Handler", kind: str, repo_id: str, need: str = "read") -> Repo:
        """A repository that the request may read, "write", or "propose" changes to."""
        names = self._names_of(request, required=need != "read")
        repo, owned = self.repos.get((kind, repo_id)), repo_id.split("/")[0] in names
        if repo is None or (repo.private and not owned):
            # Who isn't logged in isn't told whether a repository exists.
            raise Refused(404 if names else 401, "Repository not found", "RepoNotFound")
        if need == "write" and not owned:
            raise Refused(403, f"Forbidden: {names[0]} has no write access to {repo_id}")
        return repo

    def _api(self, request: "_Handler") -> Answer:
        match [request.command, *request.parts]:
            case ["GET", "api", "whoami-v2"]:
                user, *others = self._names_of(request, required=True)
                auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
                return reply({"type": "user", "name": user, "orgs": [{"name": org} for org in others], "auth": auth})
            case ["POST", "api", "validate-yaml"]:
                try:
                    empty = not card_data(request.json["content"])
                except yaml.YAMLError as error:
                    return reply({"errors": [{"message": str(error)}]}, 400)
                return reply({"warnings": [{"message": "empty or missing yaml metadata"}] if empty else []})
            case [_, "api", "repos", ("create" | "delete") as action]:
                return self._create_or_delete(request, action)
            case ["GET", "api", ("models" | "datasets" | "spaces") as kinds]:
                return self._list(request, kinds.removesuffix("s"))
            case [_, "api", ("models" | "datasets" | "spaces") as kinds, owner, *rest]:
                return self._repo_route(request, kinds.removesuffix("s"), "/".join([owner, *rest[:1]]), rest[1:])
            case [_, ("datasets" | "spaces") as kinds, *rest]:
                return self._file_route(request, kinds.removesuffix("s"), rest)
        return self._file_route(request, "model", request.parts)

    def _create_or_delete(self, request: "_Handler", action: str) -> Answer:
        names, asked = self._names_of(request, required=True), request.json
        owner = asked.get("organization") or names[0]
        key = kind, repo_id = asked.get("type") or "model", f"{owner}/{asked['name']}"
        if action == "delete":
            self._repo(request, kind, repo_id, "write")
            del self.repos[key]
            return reply({})
        if owner not in names:
            raise Refused(403, f"You don't have the rights to create a {kind} under the namespace {owner}")
        status = 409 if key in self.repos else 200
        if status == 200:
            self.repos[key] = Repo(*key, names[0], asked.get("visibility") == "private", asked.get("sdk"))
        return reply({"url": f"{self.endpoint}/{self.repos[key].url}"}, status)

    def _list(self, request: "_Handler", kind: str) -> Answer:
        query, names = request.query, self._names_of(request)
        author, search, sort = (query.get(key, [""])[0] for key in ("author", "search", "sort"))
        wanted = {*query.get("filter", []), *query.get("pipeline_tag", [])}
        found = [repo.info() for repo in self.repos.values() if repo.kind == kind and wanted <= repo.labels()]
        found = [info for info in found if not info["private"] or info["author"] in names]
        found = [info for info in found if author in ("", info["author"]) and search.lower() in info["id"].lower()]
        found.sort(key=lambda info: (info.get(sort, 0), info["createdAt"]), reverse=True)
        left_out = set() if request.wants("full") else {"siblings", "sha", "lastModified"}
        shown = {"id", *query.get("expand", set().union(*found) - left_out)}
        return reply([{key: value for key, value in info.items() if key in shown} for info in found])

    def _repo_route(self, request: "_Handler", kind: str, repo_id: str, rest: list[str]) -> Answer:
        repo = self._repo(request, kind, repo_id)
        match [request.command, *rest]:
            case ["GET"] | ["GET", "revision", _]:
                info = repo.info(rest[1] if rest else "main", blobs=request.wants("blobs"))
                shown = {"id", *request.query.get("expand", info)}
                return reply({key: value for key, value in info.items() if key in shown})
            case ["GET", "tree", revision, *path]:
                return reply(repo.resolve(revision).tree("/".join(path), request.wants("recursive")))
            case ["POST", "paths-info", revision]:
                commit, paths = repo.resolve(revision), parse_qs(request.body.decode()).get("paths", [])
                return reply([entry for path in paths if (entry := commit.entry(path.rstrip("/")))])
            case ["POST", "preupload", revision]:
                self._repo(request, kind, repo_id, "propose")
                files = repo.resolve(revision).files
                return reply({"files": [upload_mode(asked, files) for asked in request.json["files"]]})
            case ["POST", "commit", revision]:
                self._repo(request, kind, repo_id, "propose" if request.wants("create_pr") else "write")
                return self._commit(request, repo, revision)
            case ["GET", "commits", revision]:
                log, past = [], repo.resolve(revision)
                while past:
                    log.append({"id": past.oid, "title": past.title, "message": past.message, "date": past.date})
                    log[-1]["authors"], past = [{"user": past.author}], past.parent
                return reply(log)
            case ["GET", "refs"]:
                told = {"heads": [], "tags": [], "pr": []}
                for ref, commit in repo.refs.items():
                    _, place, name = ref.split("/", 2)
                    told[place].append({"name": name, "ref": ref, "targetCommit": commit.oid})
                return reply({"branches": told["heads"], "converts": [], "pullRequests": told["pr"], **told})
            case [("POST" | "DELETE"), ("branch" | "tag"), _]:
                self._repo(request, kind, repo_id, "write")
                return self._change_ref(request, repo, *rest)
        return reply({"error": f"No such route here: {request.path}"}, 404)

    def _change_ref(self, request: "_Handler", repo: Repo, what: str, name: str) -> Answer:
        """Make or delete a branch or a tag; the route of a new tag names the revision, that of a branch the branch."""
        new, asked = request.command == "POST", request.json
        start = asked.get("startingPoint") or "main" if what == "branch" else name
        ref = f"refs/heads/{name}" if what == "branch" else f"refs/tags/{asked.get('tag', name)}"
        if ref.startswith("refs/heads/refs/") or (not new and ref == "refs/heads/main"):
            raise Refused(400, f"Invalid reference for a {what}: {name}")
        if new and ref in repo.refs:
            raise Refused(409, f"Reference {ref} already exists")
        if new:
            repo.refs[ref] = repo.resolve(start)
        elif repo.refs.pop(ref, None) is None:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return reply({})

    def _commit(self, request: "_Handler", repo: Repo, revision: str) -> Answer:
        header, *operations = map(json.loads, request.body.decode().splitlines())
        header, author, pull = header["value"], self._names_of(request)[0], None
        ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
        parent = repo.resolve(ref)
        if request.wants("create_pr"):
            pull = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            ref, parent = f"refs/pr/{pull}", repo.resolve(header.get("parentCommit") or revision)
        elif not parent.oid.startswith(header.get("parentCommit") or ""):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = repo.changed(parent.files, operations)
        made = repo.commit(ref, parent, header["summary"], header.get("description", ""), author, files)
        told = {"commitOid": made.oid, "commitUrl": f"{self.endpoint}/{repo.url}/commit/{made.oid}"}
        return reply({**told, "pullRequestUrl": f"{self.endpoint}/{repo.url}/discussions/{pull}" if pull else None})

    def _file_route(self, request: "_Handler", kind: str, parts: list[str]) -> Answer:
        match parts:
            case [owner, name, "resolve", revision, *path]:
                repo, path = self._repo(request, kind, f"{owner}/{name}"), "/".join(path)
                commit = repo.resolve(revision)
                if path not in commit.files:
                    raise Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
                file = commit.files[path]
                headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
                if not file.is_lfs:
                    return content(file.content, request, headers)
                headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
                headers["Location"] = f"{self.storage_endpoint}/storage/{repo.kind}/{repo.id}/{file.sha256}"
                return 302, b"", headers
            case [owner, name, "info", "lfs", "objects", ("batch" | "verify") as action]:
                repo = self._repo(request, kind, f"{owner}/{name.removesuffix('.git')}", "propose")
                if action == "verify":
                    return reply({}, 200 if request.json["oid"] in repo.lfs else 404)
                return reply({"objects": [self._actions(repo, asked) for asked in request.json["objects"]]})
        return reply({"error": f"No such route here: {request.path}"}, 404)

    def _actions(self, repo: Repo, asked: dict) -> dict:
        if asked["oid"] in repo.lfs:  # the client has nothing to send
            return asked
        upload = f"{self.storage_endpoint}/storage/{repo.kind}/{repo.id}/{asked['oid']}"
        verify = f"{self.endpoint}/{repo.url}.git/info/lfs/objects/verify"
        return {**asked, "actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def _storage(self, request: "_Handler") -> Answer:
        """The second origin. As at the real one, addresses are the permission and a token is an error."""
        if "Authorization" in request.headers:
            raise Refused(400, "Only one auth mechanism allowed")
        _, kind, owner, name, oid = request.parts
        stored = self.repos[kind, f"{owner}/{name}"].lfs
        if request.command == "PUT":
            if hashlib.sha256(request.body).hexdigest() != oid:
                raise Refused(400, "The content doesn't match its checksum")
            stored[oid] = request.body
            return 200, b"", {"ETag": f'"{oid}"'}
        return content(stored[oid], request, {"ETag": f'"{oid}"'})


def upload_mode(asked: dict, files: dict[str, StoredFile]) -> dict:
    path, is_binary = asked["path"], b"\0" in base64.b64decode(asked["sample"])
    is_lfs = path.endswith(LFS_SUFFIXES) or asked["size"] > LFS_SIZE or is_binary
    mode = {"path": path, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
    return mode | ({"oid": files[path].etag} if path in files else {})


def content(whole: bytes, request: "_Handler", headers: dict[str, str]) -> Answer:
    """A file, or the range of it that was asked for."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    match, size = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")), len(whole)
    if match is None:
        return 200, whole, headers
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if first > last:
        return 416, b"", {**headers, "Content-Range": f"bytes */{size}"}
    return 206, whole[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}


class _Handler(BaseHTTPRequestHandler):
    """A connection; also the request that it is at."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        url = urlsplit(self.path)
        # Split before unquoting: a revision such as `refs/pr/1` is one part.
        self.parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.query = parse_qs(url.query)
        # All of it even if it isn't wanted: the next request follows on the same connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_json = re.search(r"[/+]json\b", self.headers.get("Content-Type", ""))
        self.json = json.loads(self.body) if is_json else {}
        (status, body, headers), failure = self.server.answer(self)
        self.close_connection = self.close_connection or failure in ("drop", "lost", "cut")
        if failure in ("drop", "lost"):
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if failure == "cut" else body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def wants(self, name: str) -> bool:
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")

    def log_message(self, *_) -> None:
        """The hub keeps a log of its own."""


def run_client(hub: LoopbackHub, code: str, tmp_path: Path, token: str | bool = True, home: Path | None = None) -> str:
    """Run Python code in a process whose Hugging Face libraries know only this hub; returns what it printed.

    A process of its own, as they freeze their addresses at import. Caches are fresh unless `home` names where they are.
    """
    others = (name for name in os.environ if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")))
    environment = {name: os.environ[name] for name in others}
    environment |= hub.environment(home or mkdtemp(prefix="hf-home-", dir=tmp_path), token)
    environment["OMP_NUM_THREADS"] = "1"  # other tests run at the same time
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode:
        output = (done.stdout + done.stderr)[-6000:].replace(environment["HF_TOKEN"] or "\0", "***")
        raise AssertionError(f"the client ended with {done.returncode}:\n{output}")
    return done.stdout
