"""Asking for responses, and what the model reads of them."""

from typing import Any

from tests.support.api import Api
from tests.support.event_streams import events_of
from tests.support.scripted_engine import TOKENIZER

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Looks outside.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)


def written(name: str, text: str) -> str:
    """A call of a tool of free text, as the model writes it."""
    return f"<tool_call>\n<function={name}>\n<parameter=input>\n{text}\n</parameter>\n</function>\n</tool_call>"


def ask(api: Api, given: Any = "Hi", **more: Any) -> Any:
    return api.post(PATH, {"input": given, **more})


def answered(api: Api, given: Any = "Hi", **more: Any) -> Any:
    response = ask(api, given, **more)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(api: Api, given: Any = "Hi", **more: Any) -> list[dict[str, Any]]:
    response = ask(api, given, stream=True, **more)
    assert response.status_code == 200, response.text
    return events_of(response.text)


def last_prompt(api: Api) -> str:
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)


def prompt_of(given: Any = "Hi", **more: Any) -> str:
    api = Api()
    answered(api, given, **more)
    return last_prompt(api)


def refusal(given: Any = "Hi", **more: Any) -> Any:
    """The error object of a request that is refused."""
    response = ask(Api(), given, **more)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    return response.json()["error"]
