"""A whole daemon process over a scripted engine, to send signals to: ANSWER DELAY SHUTDOWN_TIMEOUT."""

import sys

from server.app import create_app
from server.auth import ApiKeys
from server.daemon import open_socket, run
from server.logs import configure_logging
from server.settings import Settings
from tests.support.scripted_engine import ScriptedEngine, say
from tests.support.tiny_text_model import tiny_model


def main(answer: str, delay: str, shutdown_timeout: str) -> None:
    configure_logging("info")
    engine = ScriptedEngine(say(answer, delay=float(delay)))
    listener = open_socket("127.0.0.1", 0)
    app = create_app(engine, Settings(), tiny_model(), ApiKeys(()))
    run(app, engine, listener, float(shutdown_timeout), lambda: print(listener.getsockname()[1], flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
