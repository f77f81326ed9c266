"""The clients that can be connected, by the names their users know."""

from collections.abc import Mapping

from server.connect import agents, editors
from server.connect.recipe import Client

CLIENTS: Mapping[str, Client] = {
    "aider": agents.aider,
    "claude-code": agents.claude_code,
    "cline": agents.cline,
    "codex": agents.codex,
    "continue": editors.continue_dev,
    "goose": agents.goose,
    "litellm": agents.litellm,
    "llama-vscode": editors.llama_vscode,
    "mini-swe-agent": agents.mini_swe_agent,
    "opencode": agents.opencode,
    "openhands": agents.openhands,
    "qwen-code": agents.qwen_code,
    "zed": editors.zed,
}
