"""llama.cpp's server from the xllamacpp package, as a program.

    python -m luthier.serve.llama FILE NAME PORT SLOTS TOKENS

It is a process of its own, so that what goes wrong in it is nobody else's end. It lives as long as its standard input,
which closes when whoever started it is gone, in whatever way.
"""

import os
import sys


def main(path: str, name: str, port: int, slots: int, tokens: int) -> None:
    """Serve a file on 127.0.0.1 under a name, to `slots` at a time who share `tokens` of context."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.model_alias = {name}
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_parallel = slots
    settings.n_ctx = tokens
    settings.kv_unified = False
    settings.use_jinja = True
    settings.api_keys = [os.environ["LLAMA_API_KEY"]]
    server = xllamacpp.Server(settings)
    sys.stdin.buffer.read()
    del server


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
