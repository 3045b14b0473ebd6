"""Files of the Director emulator, of a pool or of everybody: uploaded, listed, deleted at once."""

from __future__ import annotations

from collections.abc import Sequence, Set

from .director_orders import failed
from .director_resources import RESOURCES
from .ledger import Call
from .messages import Answer, Request, json_answer

__all__ = ["Files"]


class Files:
    """What was uploaded since the start."""

    def __init__(self) -> None:
        self.shelves: dict[tuple[str, str], dict[str, bytes]] = {}
        """By pool (`` = for everybody) and resource, then by name."""

    @staticmethod
    def owner(path: Sequence[str]) -> str | None:
        """The resource whose files a path below `configapi` is about."""
        names = [name for name in path[:2] if name in RESOURCES and RESOURCES[name].files]
        return names[0] if names else None

    def handle(self, path: Sequence[str], request: Request, call: Call, pools: Set[str]) -> Answer:
        """A call at `POOL/RESOURCE/…` or `RESOURCE/…`."""
        public = Files.owner(path[:1]) is not None
        pool, name, *rest = ["", *path] if public else path
        base = f"/configapi/{name}" if public else f"/configapi/{{pool}}/{name}"
        if not public and pool not in pools:
            call.template = f"{base}/…"
            return failed(404, "Unknown pool")
        shelf = self.shelves.setdefault((pool, name), {})
        upload = "publicupload" if public else "upload"
        call.write = request.method in ("POST", "DELETE")
        method = "GET" if request.method == "HEAD" else request.method
        match (method, *rest):
            case ("POST", word) if word == upload:
                call.template = f"{base}/{upload}"
                return self._upload(shelf, request, call, name)
            case ("GET", "list"):
                call.template = f"{base}/list"
                return json_answer(sorted(shelf))
            case ("DELETE", file):
                call.template = f"{base}/{{file}}"
                if file not in shelf:
                    return failed(404, f"File not found: {file}")
                del shelf[file]
                call.effect("delete", resource=f"{name} files", scope=pool, id=file, key=file)
                return json_answer({"status": "Success", "message": "File deleted"})
        return failed(404, "Not found")

    def _upload(self, shelf: dict[str, bytes], request: Request, call: Call, name: str) -> Answer:
        file = request.headers.get("file_name", "")
        if not file:
            return failed(400, "Missing header: file_name")
        there = file in shelf
        if there and request.headers.get("replace_existing", "false") != "true":
            return failed(400, f"File already exists: {file}")
        shelf[file] = request.body
        kind = "update" if there else "create"
        call.effect(kind, resource=f"{name} files", scope="", id=file, key=file)
        return json_answer({"status": "Success", "message": "File uploaded"})
