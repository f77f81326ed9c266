"""A program as users of OpenHands' SDK write it. It is given a task, and prints what happens, an event a line as JSON.

Runs in an environment of its own. Of the model it is told by the variables that `deltaloop connect openhands` writes.
"""

import sys
from pathlib import Path

from openhands.sdk import LLM, Agent, Conversation, Event, Tool
from openhands.tools.terminal import TerminalTool


def show(event: Event) -> None:
    print(event.model_dump_json(), flush=True)


def main(task: str) -> None:
    agent = Agent(llm=LLM.load_from_env(), tools=[Tool(name=TerminalTool.name)])
    conversation = Conversation(agent=agent, workspace=Path.cwd(), callbacks=[show], visualizer=None)
    conversation.send_message(task)
    conversation.run()
    conversation.close()


if __name__ == "__main__":
    main(sys.argv[1])
