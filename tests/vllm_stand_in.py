"""What vLLM says, said by our own server: `python vllm_stand_in.py serve FOLDER --host H --port P ...`.

It takes vLLM's command line and writes tokens as vLLM does: no ids beside them, but in their place where
`return_tokens_as_token_ids` asks for that.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from luthier.models.base import find_base
from luthier.pipeline.opened import Opened
from luthier.pipeline.service import answers_of
from luthier.pipeline.serving import Target
from luthier.recipe import Model
from luthier.serve.app import make_app


def main() -> None:
    """Serve a folder."""
    flag = {name: value for name, value in zip(sys.argv, sys.argv[1:], strict=False) if name.startswith("--")}
    folder = Path(sys.argv[2])
    base = find_base(Model(base=str(folder)))
    opened = Opened("model", folder, base, flag["--dtype"], "stand-in")
    target = Target(flag["--served-model-name"], folder, opened)
    app = make_app(answers_of([target], "transformers", rows=8))
    uvicorn.run(_as_vllm(app), host=flag["--host"], port=int(flag["--port"]), log_level="warning")


def _as_vllm(app: Any) -> Any:
    async def served(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return
        asked = json.loads((await receive())["body"])
        with_ids = asked.pop("return_tokens_as_token_ids", False)
        left, said = [json.dumps(asked).encode()], []

        async def ask() -> Any:
            return {"type": "http.request", "body": left.pop()} if left else await receive()

        async def hear(message: Any) -> None:
            said.append(message)

        await app(scope, ask, hear)
        answer = _renamed(json.loads(b"".join(m.get("body", b"") for m in said)), with_ids)
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": said[0]["status"], "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return served


def _renamed(body: Any, with_ids: bool) -> Any:
    if isinstance(body, list):
        return [_renamed(one, with_ids) for one in body]
    if not isinstance(body, dict):
        return body
    found = {key: _renamed(value, with_ids) for key, value in body.items()}
    if "logprob" in found and (token := found.pop("id", None)) is not None and with_ids:
        found["token"] = f"token_id:{token}"
    return found


if __name__ == "__main__":
    main()
