"""llama.cpp's server from the xllamacpp package, as a program: `python -m luthier.serve.llama FILE PORT SLOTS`.

It is a process of its own, so that what goes wrong in it is nobody else's end.
"""

import os
import signal
import sys


def main(path: str, port: int, slots: int) -> None:
    """Serve a file on 127.0.0.1 until a signal comes."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_parallel = slots
    settings.kv_unified = True
    settings.n_ctx = 0  # what the model was made for
    settings.use_jinja = True
    settings.api_keys = [os.environ["LLAMA_API_KEY"]]
    server = xllamacpp.Server(settings)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
