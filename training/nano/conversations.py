"""Generated dialogues: short answers about code, tool calls and their results, plain talk with and without tools.

A conversation is a list of chat messages and the tools on offer, as a client would send them; turning it into text is
the chat template's work. Each generator draws from a `Words`, so the same code serves training and evaluation with
different vocabulary.
"""

import ast
import random
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from .lessons import ASK, CLASSES, CONCEPTS, FACTS, PROGRAMS, SMALL_TALK, SYSTEM_PROMPTS
from .tools import CATALOGUE, Request, Tool, catalogued, code, made_up
from .words import Words

Message: TypeAlias = dict[str, object]


@dataclass(slots=True)
class Conversation:
    """Chat messages, and the tools that are on offer."""

    messages: list[Message]
    tools: list[dict[str, object]] = field(default_factory=list)

    def say(self, user: str, assistant: str) -> None:
        self.messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A short documented function found in the training source."""

    name: str
    summary: str
    code: str


def opened(rng: random.Random, chance: float = 0.35) -> Conversation:
    """An empty conversation, at times with a system prompt."""
    if rng.random() < chance:
        return Conversation([{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}])
    return Conversation([])


def fenced(source: str) -> str:
    """Source in a code block."""
    return f"```python\n{source}\n```"


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A greeting or the like, with its answer."""
    asked, answer = rng.choice(SMALL_TALK)
    return rng.choice(asked), answer


BASE_FORMS = {
    "is": "be", "returns": "return", "does": "do", "says": "say", "plays": "play", "swaps": "swap", "yields": "yield",
    "multiplies": "multiply", "flattens": "flatten", "searches": "search", "merges": "merge", "checks": "check",
}  # fmt: skip


def infinitive(phrase: str) -> str:
    """ "adds two numbers" to "add two numbers"."""
    verb, _, rest = phrase.partition(" ")
    if verb in BASE_FORMS:
        base = BASE_FORMS[verb]
    elif verb.endswith("ies"):
        base = verb[:-3] + "y"
    elif verb.endswith(("sses", "shes", "ches", "xes")):
        base = verb[:-2]
    else:
        base = verb.removesuffix("s")
    return f"{base} {rest}"


def program(rng: random.Random) -> tuple[str, str]:
    """A request for a small program, with the program."""
    if rng.random() < 0.1:
        asked, answer = rng.choice(CLASSES)
        form = rng.choice(ASK["class"])
        return ended(form.format(x=rng.choice(asked)), rng), fenced(answer)
    asked, answer = rng.choice(PROGRAMS)
    what = rng.choice(asked)
    if rng.random() < 0.3 and not what.startswith("is "):
        return ended(rng.choice(ASK["to"]).format(x=infinitive(what)), rng), fenced(answer)
    return ended(rng.choice(ASK["program"]).format(x=what), rng), fenced(answer)


def ended(text: str, rng: random.Random) -> str:
    """The sentence with or without a full stop."""
    if text.endswith("?"):
        return text
    return text + rng.choice(["", "", ".", ".", " please", "!"])


def fact(rng: random.Random) -> tuple[str, str]:
    """A question about a keyword, a function or a notion, with a short answer."""
    if rng.random() < 0.4:
        name, answer = rng.choice(list(CONCEPTS.items()))
        forms = ASK["concept"]
    else:
        name, answer = rng.choice(list(FACTS.items()))
        forms = ASK["fact"]
    return rng.choice(forms).format(x=name), answer


def echo(words: Words) -> tuple[str, str]:
    """Tasks whose answer is copied or put together from the request."""
    rng, text, name, value = words.rng, words.phrase(), words.identifier(), words.integer()
    return rng.choice(
        [
            (f"Say {text}", text), (f"Repeat: {text}", text), (f'Say "{text}"', text),
            (f"Reply with the word {name}", name), (f"Reply with exactly: {text}", text),
            (f"Print {text} in Python", fenced(f'print("{text}")')),
            (f"Write a Python function called {name}", fenced(f"def {name}():\n    pass")),
            (f"Write a function {name} that returns {value}", fenced(f"def {name}():\n    return {value}")),
            (f"Set {name} to {value} in Python", fenced(f"{name} = {value}")),
            (f"How do I import {name}?", fenced(f"import {name}")),
            (f"Write a class called {name}", fenced(f"class {name}:\n    pass")),
            (f"Write a function that prints {text}", fenced(f'def show():\n    print("{text}")')),
            (f"How do I call the function {name}?", f"Write `{name}()`."),
            (f"Remember the word {name}.", f"I will remember {name}."),
        ]
    )  # fmt: skip


def about(snippet: Snippet, rng: random.Random) -> tuple[str, str]:
    """A question about a function from the source, either way round."""
    if rng.random() < 0.5:
        form = rng.choice(ASK["code"])
        without = snippet.code.replace(f'"""{snippet.summary}"""', "", 1)
        lines = [line for line in without.split("\n") if line.strip()]
        return form.format(x=fenced("\n".join(lines))), snippet.summary
    form = rng.choice(ASK["named"])
    return form.format(n=snippet.name, s=snippet.summary), fenced(snippet.code)


def follow_up(words: Words, conversation: Conversation) -> None:
    """A second question that rests on the last answer, where there is one to rest on."""
    rng = words.rng
    last = str(conversation.messages[-1]["content"])
    if last.startswith("```python\n") and last.count("\ndef ") + last.startswith("```python\ndef ") == 1:
        source = last.removeprefix("```python\n").removesuffix("\n```")
        name = source.split("def ", 1)[1].split("(")[0]
        arguments = source.split("def ", 1)[1].split("(", 1)[1].split(")")[0]
        new = words.identifier()
        options = [
            (f"Call it {new}", fenced(source.replace(f"{name}(", f"{new}("))),
            (f"Rename it to {new}", fenced(source.replace(f"{name}(", f"{new}("))),
            ("What is the name of the function?", f"It is called `{name}`."),
            ("How do I call it?", f"Write `{name}({arguments})`."),
            ("Which arguments does it take?", f"It takes `{arguments}`." if arguments else "It takes no arguments."),
            ("Show it again", last),
        ]
        conversation.say(*rng.choice(options))
    else:
        conversation.say(*rng.choice([fact, program, small_talk])(rng))


def chat(words: Words, snippets: list[Snippet]) -> Conversation:
    """One to four plain exchanges."""
    rng = words.rng
    conversation = opened(rng)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        roll = rng.random()
        if roll < 0.2:
            conversation.say(*small_talk(rng))
        elif roll < 0.55:
            conversation.say(*program(rng))
        elif roll < 0.73:
            conversation.say(*fact(rng))
        elif roll < 0.83 or not snippets:
            conversation.say(*echo(words))
        else:
            conversation.say(*about(rng.choice(snippets), rng))
        if rng.random() < 0.2:
            follow_up(words, conversation)
    return conversation


def copying(words: Words) -> Conversation:
    """Exchanges whose answers are copies of pieces of the request: the skill that tool calls rest on."""
    rng = words.rng
    conversation = Conversation([])
    for _ in range(rng.randint(1, 3)):
        fields = list(dict.fromkeys(words.word() for _ in range(rng.randint(2, 5))))
        values = [rng.choice([words.path, words.identifier, words.phrase, words.code_tag])() for _ in fields]
        table = "\n".join(f"{name}: {value}" for name, value in zip(fields, values, strict=True))
        text = table if rng.random() < 0.5 else "\n".join(str(code(words)) for _ in range(rng.randint(1, 3)))
        at = rng.randrange(len(fields))
        if rng.random() < 0.7:
            asked = rng.choice(
                ["Repeat this:\n\n{x}", "Show this again:\n{x}", "{x}\n\nRepeat the text above", "Say {x}"]
            )
            conversation.say(asked.format(x=text), text)
        elif rng.random() < 0.5:
            conversation.say(f"{table}\n\nWhat is {fields[at]}?", values[at])
        else:
            conversation.say(f"{table}\n\nList the values", "\n".join(values))
    return conversation


def offered(words: Words, count: int) -> list[Tool]:
    """Some tools with different names: familiar ones, made-up ones, or both."""
    tools: list[Tool] = []
    familiar = words.rng.random()
    while len(tools) < count:
        tool = catalogued(words, words.rng.choice(list(CATALOGUE))) if words.rng.random() < familiar else made_up(words)
        if not any(tool.kind == t.kind != "made_up" or tool.name.lower() == t.name.lower() for t in tools):
            tools.append(tool)
    return tools


def call_message(tool: Tool, requests: Iterable[Request]) -> Message:
    """The assistant turn that makes the calls."""
    calls = [{"type": "function", "function": {"name": tool.name, "arguments": r.arguments}} for r in requests]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result_of(words: Words, tool: Tool, request: Request) -> tuple[str, str]:
    """What a tool might answer, and what the assistant then says."""
    rng = words.rng
    values = list(request.arguments.values())
    target = str(values[0]) if values else tool.name
    text, number = words.phrase(), words.integer()
    if rng.random() < 0.1:
        error = rng.choice(
            ["not found", "permission denied", "timed out", "no such file or directory", "invalid argument", "failed"]
        )
        return f"Error: {target}: {error}" if "\n" not in target else f"Error: {error}", f"That failed: {error}."
    if tool.kind == "read":
        body = "\n".join(str(code(words)) for _ in range(rng.randint(1, 3)))
        return body, rng.choice(
            [f"`{target}` contains:\n\n```\n{body}\n```", f"Here is `{target}`:\n\n```\n{body}\n```"]
        )
    if tool.kind in ("write", "edit", "delete", "move"):
        done = {"write": "I wrote", "edit": "I changed", "delete": "I deleted", "move": "I moved"}[tool.kind]
        return rng.choice(["ok", "OK", "done", "Success", f"{target}: ok", '{"ok": true}', ""]), f"{done} `{target}`."
    if tool.kind in ("list", "glob", "grep"):
        found = [words.path() for _ in range(rng.randint(0, 4))]
        if not found:
            return rng.choice(["", "No results.", "[]"]), "There are no results."
        return "\n".join(found), f"I found {len(found)}: " + ", ".join(f"`{item}`" for item in found) + "."
    if tool.kind == "weather":
        sky, degrees = (
            rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "clear", "foggy"]),
            rng.randint(-15, 40),
        )
        raw = rng.choice(
            [f'{{"temperature": {degrees}, "condition": "{sky}"}}', f"{sky}, {degrees} degrees", f"{degrees}°C, {sky}"]
        )
        return raw, f"It is {sky} in {target}, at {degrees} degrees."
    if tool.kind == "shell":
        out = rng.choice(
            [
                text,
                str(code(words)),
                f"{number} passed",
                words.path(),
                "",
                f"{number}",
                f"{words.path()}\n{words.path()}",
            ]
        )
        return out, f"The command printed:\n\n```\n{out}\n```" if out else "The command printed nothing."
    raw, answer = rng.choice(
        [
            ("ok", "Done."), ("done", "Done."), ('{"status": "ok"}', "Done."), ("true", "Done."), ("Success", "Done."),
            (text, f"The result is: {text}."), (str(number), f"The result is {number}."),
            (f'{{"id": {number}}}', f"Done. The id is {number}."),
            (f'{{"result": "{text}"}}', f"The result is: {text}."),
        ]
    )  # fmt: skip
    return raw, answer


def tool_listing(tools: list[Tool]) -> str:
    """The answer to the question which tools there are."""
    shown = [f"`{tool.name}`" for tool in tools]
    return "I can use " + (", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0]) + "."


def tool_use(words: Words) -> Conversation:
    """Tools on offer and four to twelve requests: most need one call, some two calls, some none."""
    rng = words.rng
    conversation = opened(rng)
    tools = offered(words, rng.choices([1, 2, 3, 4, 5, 6], [30, 28, 20, 12, 7, 3])[0])
    conversation.tools = [tool.schema(rng) for tool in tools]
    for _ in range(rng.randint(4, 12)):
        roll = rng.random()
        if roll < 0.1:
            plain = small_talk(rng) if rng.random() < 0.6 else rng.choice([fact, program])(rng)
            conversation.say(*plain)
            continue
        if roll < 0.13:
            asked = rng.choice(
                [
                    "Which tools do you have?",
                    "What tools can you use?",
                    "List your tools",
                    "Which functions can you call?",
                ]
            )
            conversation.say(asked, tool_listing(tools))
            continue
        tool = rng.choice(tools)
        requests = [tool.request(words)]
        text = requests[0].text
        if roll > 0.93 and "\n" not in text and text[-1] not in "?.`":
            second = tool.request(words)
            if "\n" not in second.text:
                requests.append(second)
                link = rng.choice(["and then ", "then ", "and also ", "after that "])
                text = f"{text}, {link}{second.text[0].lower()}{second.text[1:]}"
        conversation.messages += [{"role": "user", "content": text}, call_message(tool, requests)]
        if rng.random() < 0.25:  # a client that does not report results
            continue
        results = [result_of(words, tool, request) for request in requests]
        conversation.messages += [{"role": "tool", "content": result} for result, _ in results]
        conversation.messages.append(
            {"role": "assistant", "content": "\n".join(dict.fromkeys(said for _, said in results))}
        )
    return conversation


def single_request(words: Words) -> tuple[Conversation, Tool, Request]:
    """A conversation that ends with one request which needs exactly one call: what evaluation asks."""
    rng = words.rng
    conversation = opened(rng)
    tools = offered(words, rng.choice([1, 2, 3, 4, 5]))
    conversation.tools = [tool.schema(rng) for tool in tools]
    tool = rng.choice(tools)
    request = tool.request(words)
    conversation.messages.append({"role": "user", "content": request.text})
    return conversation, tool, request


def snippets_in(text: str) -> Iterator[Snippet]:
    """The short functions of a source file whose docstring is one line."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            continue
        summary = ast.get_docstring(node)
        source = textwrap.dedent(ast.get_source_segment(text, node) or "")
        if (
            summary
            and "\n" not in summary
            and 10 < len(summary) < 120
            and 60 < len(source) < 700
            and "'''" not in source
        ):
            yield Snippet(node.name, summary, source)
