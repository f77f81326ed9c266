"""One package for each way of speaking to this server. A new one is its package and its line here.

Of several that own a path, the first has it.
"""

from server.dialects.anthropic import ANTHROPIC
from server.dialects.llamacpp import LLAMACPP
from server.dialects.lmstudio import LMSTUDIO
from server.dialects.ollama import OLLAMA
from server.dialects.openai import OPENAI
from server.dialects.responses import RESPONSES

DIALECTS = (OPENAI, RESPONSES, ANTHROPIC, LMSTUDIO, OLLAMA, LLAMACPP)
