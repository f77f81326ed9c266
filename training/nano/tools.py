"""Tools for the generated conversations: a catalogue of familiar ones and a maker of made-up ones.

Each `Tool` can show its JSON schema (under one of several names, so that a model cannot learn names by heart) and make
`Request`s: a sentence together with the exact arguments that it asks for.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .words import (
    CITIES,
    FLAG_FIELDS,
    NOUNS,
    NUMBER_FIELDS,
    PEOPLE,
    STRING_FIELDS,
    VERBS,
    Words,
)

Value: TypeAlias = str | int | float | bool | list[str] | dict[str, str | int]
Maker: TypeAlias = Callable[[Words], Value]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of one concrete tool; `phrases` ask for a value of an optional one ("" asks for a flag)."""

    key: str
    name: str
    type: str
    description: str
    make: Maker
    required: bool = True
    phrases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says, and the arguments of the one right call."""

    text: str
    arguments: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is offered in one conversation."""

    kind: str
    name: str
    description: str
    parameters: tuple[Parameter, ...]
    sentences: tuple[str, ...]

    def schema(self, rng: random.Random) -> dict[str, object]:
        """The tool in OpenAI's form, with the details that differ between clients drawn at random."""
        properties: dict[str, object] = {}
        for parameter in self.parameters:
            entry: dict[str, object] = {"type": parameter.type}
            if parameter.description and rng.random() < 0.7:
                entry["description"] = parameter.description
            if parameter.choices:
                entry["enum"] = list(parameter.choices)
            if parameter.type == "array":
                entry["items"] = {"type": "string"}
            properties[parameter.name] = entry
        schema: dict[str, object] = {"type": "object", "properties": properties}
        if rng.random() < 0.85:
            schema["required"] = [p.name for p in self.parameters if p.required]
        if rng.random() < 0.15:
            schema["additionalProperties"] = False
        function: dict[str, object] = {"name": self.name, "description": self.description, "parameters": schema}
        if rng.random() < 0.08:
            del function["description"]
        return {"type": "function", "function": function}

    def request(self, words: Words) -> Request:
        rng = words.rng
        wanted = [p for p in self.parameters if p.required or (p.phrases and rng.random() < 0.35)]
        values = {p.key: p.make(words) for p in wanted}
        sentence = rng.choice(self.sentences)
        shown = {p.key: spoken(values[p.key], p, rng, f"`{{{p.key}}}" in sentence) for p in wanted}
        text = sentence.format(**shown)
        for parameter in wanted:
            if not parameter.required:
                value = values[parameter.key]
                phrase = rng.choice(parameter.phrases)
                if isinstance(value, bool):
                    phrase = rng.choice(flag_phrases(parameter.name, value))
                text += phrase.format(**shown)
        text = dressed(text, rng, multiline="\n" in text)
        return Request(text, {p.name: values[p.key] for p in wanted})


def flag_phrases(name: str, value: bool) -> list[str]:
    words = name.replace("_", " ")
    if value:
        return [f" with {words} on", f", {words}", f" with {name}=true", f" and set {name} to true", f" ({name}: true)"]
    return [f" with {words} off", f", not {words}", f" with {name}=false", f" and set {name} to false"]


def spoken(value: Value, parameter: Parameter, rng: random.Random, quoted: bool) -> str:
    """A value as a user writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        if rng.random() < 0.4 or len(value) < 2:
            return json.dumps(value)
        return ", ".join(value[:-1]) + rng.choice([" and ", ", "]) + value[-1]
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, str) and "\n" not in value and not quoted:
        marks = [("", "", 6), ("`", "`", 3), ('"', '"', 3), ("'", "'", 1)]
        if " " in value:
            marks[0] = ("", "", 3)
        usable = [mark for mark in marks if not mark[0] or mark[0] not in value]
        left, right, _ = rng.choices(usable, [mark[2] for mark in usable])[0]
        return f"{left}{value}{right}"
    return str(value)


OPENINGS = ("Please ", "please ", "Can you ", "Could you ", "I want you to ", "Now ", "Hey, ", "I need you to ", "Then ")


def dressed(text: str, rng: random.Random, multiline: bool) -> str:
    """The sentence with the politeness, capitals and stops that users do or do not use."""
    opening = ""
    if rng.random() < 0.3 and not text.startswith(("Wh", "How", "I ", "Is", "Are", "Does")):
        opening = rng.choice(OPENINGS)
        text = opening + text[0].lower() + text[1:]
    elif rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    if multiline or text.endswith(("?", ".", "`", '"')):
        return text
    if opening in ("Can you ", "Could you "):
        return text + rng.choice(["?", "?", ""])
    return text + rng.choice(["", "", ".", ".", " please", " for me", ", thanks"])


def one_of(*values: str) -> Maker:
    return lambda words: words.rng.choice(values)


def city(words: Words) -> Value:
    if words.rng.random() < 0.15:
        return words.made_up().capitalize()
    return words.pick(CITIES)


def person(words: Words) -> Value:
    return words.pick(PEOPLE)


def path(words: Words) -> Value:
    return words.path()


def folder(words: Words) -> Value:
    return words.folder() if words.rng.random() < 0.9 else "."


def identifier(words: Words) -> Value:
    return words.identifier()


def phrase(words: Words) -> Value:
    return words.phrase()


def small_number(words: Words) -> Value:
    return words.rng.randint(1, 60)


def line_number(words: Words) -> Value:
    return words.rng.randint(1, 900)


def yes(words: Words) -> Value:
    return words.rng.random() < 0.8


def email(words: Words) -> Value:
    return f"{words.pick(PEOPLE).lower()}@{words.word()}.{words.rng.choice(['com', 'org', 'net', 'io'])}"


def url(words: Words) -> Value:
    site = f"https://{words.rng.choice(['', 'www.', 'api.', 'docs.'])}{words.word()}.{words.rng.choice(['com', 'org', 'io', 'dev'])}"
    return site + words.rng.choice(["", "/" + words.word(), f"/{words.word()}/{words.word()}", f"/{words.file_name()}"])


def date(words: Words) -> Value:
    return f"20{words.rng.randint(20, 31)}-{words.rng.randint(1, 12):02}-{words.rng.randint(1, 28):02}"


def pattern(words: Words) -> Value:
    word = words.identifier()
    return words.rng.choice(
        [word, word, word, f"def {word}", f"class {word}", f"import {word}", f"{word}(", "TODO", f"TODO: {word}", word.upper()]
    )


def glob(words: Words) -> Value:
    extension = words.file_name().rsplit(".", 1)[1]
    return words.rng.choice(["*.", "**/*.", f"{words.folder()}/*.", f"{words.folder()}/**/*.", f"{words.word()}*."]) + extension


def command(words: Words) -> Value:
    path_, folder_, word = words.path(), words.folder(), words.word()
    return words.rng.choice(
        [
            "ls", "ls -la", f"ls {folder_}", f"ls -la {folder_}", "pwd", "whoami", "date", "git status", "git diff", "make",
            f"git log -n {words.rng.randint(1, 20)}", f"git diff {path_}", f"git checkout {word}", f"git add {path_}",
            f"git checkout -b {word}", f"git commit -m '{words.phrase()}'", f"cat {path_}", f"head -n {words.integer()} {path_}",
            f"tail -f {path_}", f"wc -l {path_}", f"python {path_}", f"python3 {path_}", f"python -m {word}", "pytest",
            f"pytest {folder_}", f"pytest -q {path_}", f"pytest -k {words.identifier()}", f"pip install {word}", f"make {word}",
            f"npm install {word}", f"npm run {word}", f"npm test", f"mkdir {folder_}", f"mkdir -p {folder_}", f"rm {path_}",
            f"cp {path_} {folder_}", f"mv {path_} {words.path()}", f"grep -r {word} {folder_}", f"grep -n '{word}' {path_}",
            f"find . -name '*.{path_.rsplit('.', 1)[1]}'", f"echo {word}", f"echo '{words.phrase()}'", f"touch {path_}",
            f"ruff check {folder_}", f"mypy {folder_}", f"docker ps", f"docker build -t {word} .", f"cd {folder_} && ls",
            f"cd {folder_} && pytest", f"curl {url(words)}", f"cargo test", f"go test ./...", f"chmod +x {path_}", "df -h",
        ]
    )  # fmt: skip


def code(words: Words) -> Value:
    """A small piece of a text or source file, of one to four lines."""
    one, two, number = words.identifier(), words.word(), words.integer()
    return words.rng.choice(
        [
            f"print({one})", f'print("{words.phrase()}")', f"{one} = {number}", f'{one} = "{two}"', f"import {two}", words.phrase(),
            f"def {one}():\n    return {number}", f"def {one}({two}):\n    return {two} + {number}", f"# {words.phrase()}",
            f"import {two}\n\nprint({two}.{one})", f"class {one}:\n    {two} = {number}", f"{two}: {number}\n{words.word()}: {one}",
            f"for {two} in {one}:\n    print({two})", f"if {one}:\n    {two} = {number}", f"- {words.phrase()}\n- {words.phrase()}",
            f"def {one}({two}):\n    {words.word()} = {two} * {number}\n    return {words.word()}", f"{words.phrase()}\n{words.phrase()}",
            f"from {two} import {one}", f'{{"{one}": {number}}}', f"return {one}", f"{one}({two}, {number})",
        ]
    )  # fmt: skip


def paths(words: Words) -> Value:
    return [words.path() for _ in range(words.rng.randint(1, 4))]


def names(words: Words) -> Value:
    return [words.word() for _ in range(words.rng.randint(2, 4))]


# One line a tool: kind; names; descriptions; then parameters (key, names, type, descriptions, maker, phrases of an
# optional one) and the sentences that ask for it.
Spec: TypeAlias = tuple[str, str, list[tuple[str, str, str, str, Maker, str]], str]

CATALOGUE: dict[str, Spec] = {
    "read": (
        "read_file|Read|read|view_file|open_file|get_file|get_file_contents|view|cat_file|file_read|ReadFile|fs_read",
        "Read a file.|Reads a file from disk.|Show the contents of a file.|Get the text of a file|Reads a file and returns its contents.|Read a file from the local filesystem",
        [
            ("path", "path|file_path|filename|file|filepath|target_file|absolute_path", "string", "Path of the file|The file to read|File path|Absolute or relative path", path, ""),
            ("start", "offset|start_line|start|from_line|line", "integer", "First line|Line to start at", line_number, " from line {start}| starting at line {start}| from {start}"),
            ("limit", "limit|num_lines|max_lines|lines", "integer", "Number of lines|How many lines to read", line_number, ", {limit} lines|, at most {limit} lines| (limit {limit})|, only {limit} lines"),
        ],
        "Read {path}|Read the file {path}|Show me {path}|Show {path}|Open {path}|What is in {path}?|What's in {path}?|Look at {path}|Have a look at {path}|Print the contents of {path}|View {path}|Show me the contents of {path}|Check {path}|Let me see {path}|What does {path} contain?|Get {path}|I want to see {path}|Take a look at {path}|cat {path}|Display {path}|What does {path} look like?",
    ),
    "write": (
        "write_file|Write|write|create_file|save_file|file_write|WriteFile|put_file|write_to_file",
        "Write a file.|Writes text to a file.|Create or overwrite a file.|Save content to a file",
        [
            ("path", "path|file_path|filename|file|filepath|target_file", "string", "Path of the file|Where to write|File path", path, ""),
            ("content", "content|text|contents|data|body|file_text", "string", "Text to write|The new content|Content of the file", code, ""),
        ],
        "Write this to {path}:\n\n{content}|Create {path} with this content:\n{content}|Create {path}:\n\n```\n{content}\n```|Save this as {path}:\n\n```\n{content}\n```|Write `{content}` to {path}|Put `{content}` into {path}|Create a file {path} with the content `{content}`|Make a file {path} that contains:\n{content}|Write the following to {path}:\n```python\n{content}\n```|Create {path} containing {content}|Write {content} to {path}|Save {content} in {path}|Write {content} to the file {path}|Create a file named {path} with {content}",
    ),
    "edit": (
        "edit_file|Edit|edit|replace|str_replace|replace_in_file|apply_edit|modify_file|replace_text|search_replace",
        "Replace text in a file.|Edits a file by replacing one string with another.|Find and replace in a file",
        [
            ("path", "path|file_path|filename|file|filepath|target_file", "string", "Path of the file|The file to change", path, ""),
            ("old", "old_string|old_str|old|search|old_text|find|before", "string", "Text to replace|The text to find", code, ""),
            ("new", "new_string|new_str|new|replacement|new_text|replace|after", "string", "The new text|Text to put in its place", code, ""),
            ("all", "replace_all|all|global|all_occurrences", "boolean", "Replace every occurrence", yes, " everywhere"),
        ],
        "In {path} replace `{old}` with `{new}`|In {path}, change `{old}` to `{new}`|Replace `{old}` by `{new}` in {path}|Change `{old}` to `{new}` in {path}|Edit {path}: replace `{old}` with `{new}`|Edit {path} and change `{old}` into `{new}`|Replace {old} with {new} in {path}|In the file {path} replace {old} with {new}|Update {path}: `{old}` should be `{new}`|In {path} replace\n{old}\nwith\n{new}",
    ),
    "shell": (
        "bash|Bash|shell|run_command|execute_command|run_shell_command|terminal|exec|run|run_terminal_cmd|execute|sh",
        "Run a shell command.|Executes a command in a shell.|Run a command and return its output.|Execute a bash command",
        [
            ("command", "command|cmd|script|shell_command|input", "string", "The command to run|Command line|Shell command", command, ""),
            ("timeout", "timeout|timeout_seconds|timeout_ms|max_seconds", "integer", "Time limit in seconds|Timeout", line_number, " with a timeout of {timeout}|, timeout {timeout}| with timeout {timeout}"),
            ("cwd", "cwd|workdir|directory|working_directory|dir", "string", "Where to run it|Working directory", folder, " in {cwd}| in the directory {cwd}| from {cwd}"),
            ("note", "description|explanation|reason", "string", "What it does", phrase, " with the description {note}| (description: {note})"),
        ],
        "Run `{command}`|Run the command `{command}`|Execute `{command}`|Run {command}|Execute {command}|Run the command {command}|What does `{command}` print?|Run `{command}` in the shell|Try `{command}`|Start `{command}`|Use the shell to run `{command}`|Call `{command}`|Run this command: {command}",
    ),
    "list": (
        "list_files|list_dir|ls|LS|list_directory|list|list_folder|dir|read_dir|ListDir",
        "List the files in a directory.|Lists a directory.|List files and folders",
        [
            ("path", "path|directory|dir|folder|dir_path|target_directory", "string", "The directory|Directory to list|Path of the folder", folder, ""),
            ("recursive", "recursive|deep|include_subfolders", "boolean", "Also list subfolders", yes, ""),
            ("depth", "depth|max_depth|levels", "integer", "How deep to go", small_number, " to depth {depth}|, depth {depth}| with depth {depth}"),
        ],
        "List the files in {path}|List {path}|What files are in {path}?|Show the files in {path}|What is in the folder {path}?|Show me the directory {path}|List the directory {path}|Which files are there in {path}?|ls {path}|List all files in {path}|What does the folder {path} contain?|Show me what is in the {path} folder|Look into the directory {path}",
    ),
    "grep": (
        "grep|Grep|search_files|search_code|grep_search|find_text|ripgrep|search_text|code_search|rg",
        "Search for a pattern in files.|Searches file contents.|Find lines that match a pattern.|Search text in files",
        [
            ("pattern", "pattern|query|regex|text|search|expression|q", "string", "What to search for|Regular expression|The pattern", pattern, ""),
            ("path", "path|directory|dir|folder|include_path|root", "string", "Where to search|Directory", folder, " in {path}| in the folder {path}| under {path}| inside {path}"),
            ("glob", "glob|include|file_pattern|include_pattern|file_glob", "string", "Which files|File filter", glob, ", only in {glob}| in files matching {glob}|, only {glob}"),
            ("max", "max_results|limit|head_limit|max_count", "integer", "At most this many", small_number, ", at most {max} results| (max {max})|, limit {max}"),
            ("case", "case_sensitive|ignore_case|multiline", "boolean", "How to match", yes, ""),
        ],
        "Search for {pattern}|Search for `{pattern}`|Find {pattern}|Grep for {pattern}|Look for {pattern}|Where is {pattern} used?|Where does `{pattern}` occur?|grep {pattern}|Find all uses of {pattern}|Search the code for {pattern}|Find `{pattern}`|Which files contain {pattern}?|Search for the text {pattern}|Find where {pattern} is defined",
    ),
    "glob": (
        "glob|Glob|find_files|file_search|find|glob_search|match_files|find_by_name",
        "Find files by name.|Finds files that match a glob pattern.|Search for file names",
        [
            ("pattern", "pattern|glob|glob_pattern|name|query", "string", "Glob pattern|Which files|File name pattern", glob, ""),
            ("path", "path|directory|dir|root|base", "string", "Where to look|Directory", folder, " in {path}| under {path}| in the directory {path}"),
        ],
        "Find all files matching {pattern}|Find files like {pattern}|Which files match {pattern}?|Find {pattern} files|List files matching {pattern}|Find the files {pattern}|Glob {pattern}|Are there files matching {pattern}?|Look for files named {pattern}",
    ),
    "delete": (
        "delete_file|remove_file|delete|rm|unlink|remove",
        "Delete a file.|Removes a file from disk.",
        [
            ("path", "path|file_path|filename|file|target", "string", "The file to delete|Path", path, ""),
            ("force", "force|permanent|confirm", "boolean", "Do not ask", yes, ""),
        ],
        "Delete {path}|Remove {path}|Delete the file {path}|Remove the file {path}|Get rid of {path}|Please delete {path}|I do not need {path} any more, delete it|Erase {path}",
    ),
    "move": (
        "move_file|rename_file|move|mv|rename|copy_file|copy",
        "Move a file.|Moves or renames a file.|Copy a file",
        [
            ("source", "source|src|from|old_path|source_path", "string", "Where it is now|Source", path, ""),
            ("target", "destination|dest|to|new_path|target|destination_path", "string", "Where it goes|Destination", path, ""),
        ],
        "Move {source} to {target}|Rename {source} to {target}|Copy {source} to {target}|Move the file {source} to {target}|Put {source} at {target}|{source} should be called {target}|Rename the file {source} to {target}|Move {source} into {target}",
    ),
    "weather": (
        "get_weather|get_current_weather|weather|weather_lookup|fetch_weather|current_weather|getWeather|get_forecast",
        "Get the weather for a city.|Get the current weather in a given location|Returns the weather.|Current weather",
        [
            ("city", "city|location|place|q|city_name", "string", "The city|City name|The city and state, e.g. San Francisco, CA|Location", city, ""),
            ("unit", "unit|units|format|temperature_unit", "string", "Unit of temperature", one_of("celsius", "fahrenheit"), " in {unit}| (in {unit})|, in {unit}"),
            ("days", "days|num_days|forecast_days", "integer", "Number of days", small_number, " for {days} days| for the next {days} days"),
        ],
        "What is the weather in {city}?|What's the weather in {city}?|What is the weather like in {city}?|How is the weather in {city}?|Weather in {city}|Get the weather for {city}|Tell me the weather in {city}|Show me the weather in {city}|Check the weather in {city}|Is it raining in {city}?|What's the weather like in {city} today?|Is it cold in {city}?|How warm is it in {city}?|Get me the forecast for {city}",
    ),
    "time": (
        "get_time|get_current_time|current_time|time_in|now|clock|get_local_time",
        "Get the current time.|Returns the local time of a place.|Current time in a city",
        [("place", "timezone|city|location|place|tz", "string", "The place|Time zone or city", city, "")],
        "What time is it in {place}?|Tell me the time in {place}|Current time in {place}|What is the time in {place}?|How late is it in {place}?|Get the time in {place}|What's the local time in {place}?",
    ),
    "fetch": (
        "fetch|web_fetch|WebFetch|http_get|fetch_url|open_url|browse|get_url|download",
        "Fetch a URL.|Downloads a web page.|Get the content of a web page",
        [
            ("url", "url|uri|link|address|href", "string", "The address|URL to fetch", url, ""),
            ("timeout", "timeout|max_seconds|wait", "integer", "Seconds to wait", small_number, " with a timeout of {timeout}| and wait at most {timeout} seconds"),
        ],
        "Fetch {url}|Get {url}|Open {url}|Download {url}|What is on {url}?|Read the page {url}|Fetch the page at {url}|Visit {url}|Load {url}|What does {url} say?|Go to {url}",
    ),
    "websearch": (
        "web_search|WebSearch|search_web|google|search|internet_search|search_internet|duckduckgo",
        "Search the web.|Searches the internet.|Look something up online",
        [
            ("query", "query|q|search_query|term|keywords|text", "string", "What to search for|Search terms", phrase, ""),
            ("count", "count|num_results|max_results|limit|n", "integer", "Number of results", small_number, " and give me {count} results|, {count} results| (top {count})"),
        ],
        "Search the web for {query}|Look up {query}|Google {query}|Search for {query}|Search online for {query}|Find information about {query}|Search the internet for {query}|Look online for {query}|What can you find about {query}?|Do a web search for {query}",
    ),
    "email": (
        "send_email|email|send_mail|mail|compose_email|sendEmail",
        "Send an e-mail.|Sends an email to someone.|Send mail",
        [
            ("to", "to|recipient|address|email|recipient_email", "string", "Who gets it|Recipient|E-mail address", email, ""),
            ("subject", "subject|title|topic", "string", "The subject|Subject line", phrase, ""),
            ("body", "body|content|message|text", "string", "The text|Body of the mail", phrase, " saying {body}| with the text {body}| and write {body}| and body {body}"),
        ],
        "Send an email to {to} with the subject {subject}|Email {to} about {subject}|Write a mail to {to}, subject {subject}|Send {to} a mail with subject {subject}|Mail {to} with the subject {subject}|Send an email to {to} about {subject}",
    ),
    "message": (
        "send_message|message|notify|post_message|send_text|chat|slack_send|send_sms",
        "Send a message to someone.|Sends a message.|Post a message",
        [
            ("to", "to|recipient|user|person|contact|receiver", "string", "Who gets it|Recipient", person, ""),
            ("text", "text|message|body|content|msg", "string", "What to say|The message", phrase, ""),
        ],
        "Tell {to} {text}|Send {to} the message {text}|Message {to}: {text}|Send a message to {to} saying {text}|Write to {to}: {text}|Text {to} {text}|Let {to} know: {text}|Send {text} to {to}",
    ),
    "event": (
        "create_event|add_event|schedule_meeting|book_meeting|new_event|calendar_add|add_to_calendar",
        "Add an event to the calendar.|Schedules a meeting.|Create a calendar event",
        [
            ("title", "title|name|summary|subject|event", "string", "Title of the event|What it is", phrase, ""),
            ("date", "date|day|start_date|on|when", "string", "The date|Day, YYYY-MM-DD", date, ""),
            ("minutes", "duration|minutes|length|duration_minutes", "integer", "Length in minutes", small_number, " for {minutes} minutes|, {minutes} minutes long| lasting {minutes} minutes"),
            ("people", "attendees|people|guests|participants|invite", "array", "Who is invited", lambda w: [w.pick(PEOPLE) for _ in range(w.rng.randint(2, 3))], " with {people}| and invite {people}"),
        ],
        "Schedule {title} on {date}|Add {title} to my calendar on {date}|Create an event {title} on {date}|Plan {title} for {date}|Put {title} on {date}|Book {title} on {date}|Add an event called {title} on {date}|Set up {title} for {date}",
    ),
    "convert": (
        "convert_currency|currency_convert|exchange|convert|convert_money|fx",
        "Convert money between currencies.|Currency conversion|Converts an amount",
        [
            ("amount", "amount|value|sum|quantity", "number", "How much|The amount", lambda w: w.integer() if w.rng.random() < 0.7 else w.rng.randint(1, 9999) / 10, ""),
            ("from", "from|from_currency|source|base", "string", "From which currency", one_of("USD", "EUR", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "INR"), ""),
            ("to", "to|to_currency|target|quote", "string", "To which currency", one_of("USD", "EUR", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "INR"), ""),
        ],
        "Convert {amount} {from} to {to}|How much is {amount} {from} in {to}?|What is {amount} {from} in {to}?|Change {amount} {from} into {to}|Exchange {amount} {from} for {to}",
    ),
    "stock": (
        "get_stock_price|stock_price|quote|get_quote|stock|get_price|lookup_price",
        "Get the price of a stock.|Returns a stock quote.|Current price",
        [("symbol", "symbol|ticker|stock|code|name", "string", "The symbol|Ticker", lambda w: "".join(w.rng.choices("ABCDEFGHIKLMNOPRSTUVX", k=w.rng.randint(2, 4))), "")],
        "What is the price of {symbol}?|Get the price of {symbol}|How much is {symbol} now?|Price of {symbol}|What does {symbol} cost?|Check {symbol}'s price|Quote {symbol}",
    ),
    "todo": (
        "add_todo|create_task|add_task|todo_add|new_task|add_item|remember|TodoWrite",
        "Add a task to the list.|Creates a to-do item.|Remember a task",
        [
            ("text", "text|task|title|item|todo|content", "string", "The task|What to do", phrase, ""),
            ("priority", "priority|importance|level", "string", "How urgent", one_of("low", "medium", "high"), " with {priority} priority|, priority {priority}| ({priority} priority)"),
            ("due", "due|due_date|deadline|by", "string", "When it is due", date, " by {due}| due {due}|, due on {due}"),
        ],
        "Add {text} to my list|Add the task {text}|Add {text} to my todo list|Create a task: {text}|New task: {text}|Put {text} on my list|Add a todo: {text}|Remind me to {text}|Add a task called {text}",
    ),
    "calc": (
        "calculate|calculator|calc|evaluate|compute|eval_math",
        "Evaluate a mathematical expression.|Calculator|Computes an expression.",
        [("expression", "expression|expr|input|formula|query", "string", "The expression|What to compute", lambda w: f"{w.integer()} {w.rng.choice('+-*/')} {w.integer()}" + (f" {w.rng.choice('+-*')} {w.integer()}" if w.rng.random() < 0.3 else ""), "")],
        "What is {expression}?|Calculate {expression}|Compute {expression}|How much is {expression}?|Evaluate {expression}|Work out {expression}|{expression} = ?",
    ),
    "python": (
        "run_python|python|execute_python|code_interpreter|exec_python|python_repl|run_code",
        "Run Python code.|Executes Python.|Run code in an interpreter",
        [("code", "code|source|script|program|python_code", "string", "The code|Python source", code, "")],
        "Run this Python code:\n\n{code}|Run `{code}` in Python|Execute this code:\n```python\n{code}\n```|Run this:\n\n```\n{code}\n```|What does this print?\n\n{code}|Execute `{code}`|Try this code: `{code}`",
    ),
    "readmany": (
        "read_files|read_many_files|view_files|open_files|batch_read",
        "Read several files.|Reads many files at once.",
        [("paths", "paths|files|file_paths|filenames", "array", "The files|List of paths", paths, "")],
        "Read {paths}|Show me {paths}|Read the files {paths}|Open {paths}|Read all of {paths}|Load the files {paths}",
    ),
    "commit": (
        "git_commit|commit|make_commit|create_commit",
        "Commit the changes.|Creates a git commit.",
        [
            ("message", "message|msg|text|commit_message", "string", "Commit message|What changed", phrase, ""),
            ("files", "files|paths|only", "array", "Files to commit", paths, " with the files {files}|, only {files}"),
            ("amend", "amend|signoff|all", "boolean", "How to commit", yes, ""),
        ],
        "Commit with the message {message}|Commit the changes with message {message}|Make a commit: {message}|Commit this as {message}|git commit with message {message}|Create a commit with the message {message}",
    ),
    "nothing": (
        "get_date|now|get_status|git_status|list_todos|get_user|whoami|screenshot|ping|health_check|list_users|undo|get_version|list_sessions",
        "Takes no arguments.|Needs no parameters.|No arguments.",
        [],
        "Call {name}|Use {name}|Run {name}|Please call {name}|Use the {name} tool|Call the function {name}|{spoken}|Do a {spoken}",
    ),
}


def catalogued(words: Words, kind: str) -> Tool:
    """A familiar tool under one of its names."""
    rng = words.rng
    names, descriptions, specs, sentences = CATALOGUE[kind]
    name = rng.choice(names.split("|"))
    parameters: list[Parameter] = []
    for key, labels, type_, notes, make, phrases in specs:
        optional = bool(phrases) or type_ == "boolean"
        if optional and rng.random() < 0.45:
            continue
        choices = ("celsius", "fahrenheit") if key == "unit" else ("low", "medium", "high") if key == "priority" else ()
        taken = {p.name for p in parameters}
        label = rng.choice([label for label in labels.split("|") if label not in taken])
        parameters.append(
            Parameter(
                key, label, type_, rng.choice(notes.split("|")), make, not optional,
                tuple(phrases.split("|")) if phrases else ("",) if optional else (),
                choices if rng.random() < 0.8 else (),
            )
        )  # fmt: skip
    if kind == "nothing":
        talk = name.replace("_", " ")
        sentences = sentences.replace("{name}", name).replace("{spoken}", talk)
    return Tool(kind, name, rng.choice(descriptions.split("|")), tuple(parameters), tuple(sentences.split("|")))


def styled(parts: list[str], rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.65:
        return "_".join(parts)
    if roll < 0.8:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "".join(part.capitalize() for part in parts) if roll < 0.92 else "-".join(parts)


def field_value(name: str, type_: str) -> Maker:
    """A maker of plausible values for a field of a made-up tool."""
    if type_ == "integer":
        return lambda words: words.integer()
    if type_ == "number":
        return lambda words: words.rng.randint(1, 9999) / 10
    if type_ == "boolean":
        return lambda words: words.rng.random() < 0.6
    if type_ == "array":
        return names
    if type_ == "object":
        return lambda words: {words.word(): words.rng.choice([words.word(), words.integer()]) for _ in range(words.rng.randint(1, 2))}
    fitting: dict[str, Maker] = {
        "email": email, "url": url, "path": path, "date": date, "start_date": date, "end_date": date, "city": city,
        "user": person, "owner": person, "author": person, "message": phrase, "description": phrase, "subject": phrase,
        "reason": phrase, "comment": phrase, "note": phrase, "body": phrase, "title": phrase, "query": phrase,
    }  # fmt: skip
    if name in fitting:
        return fitting[name]
    return lambda words: words.rng.choice([words.word, words.word, words.identifier, words.code_tag, words.phrase])()


def made_up(words: Words) -> Tool:
    """A tool that no one has seen: a verb and a noun, with parameters drawn from pools of field names."""
    rng = words.rng
    verb, noun = words.pick(VERBS), words.pick(NOUNS)
    if rng.random() < 0.1:
        noun = words.made_up()
    parameters: list[Parameter] = []
    for _ in range(rng.choice([1, 1, 2, 2, 2, 3, 3, 4])):
        type_ = rng.choices(["string", "integer", "number", "boolean", "array", "object"], [62, 17, 4, 10, 4, 3])[0]
        pool = NUMBER_FIELDS if type_ in ("integer", "number") else FLAG_FIELDS if type_ == "boolean" else STRING_FIELDS
        name = words.pick(pool) if rng.random() < 0.9 else words.made_up()
        if any(p.name == name for p in parameters):
            continue
        talk = name.replace("_", " ")
        note = rng.choice([f"The {talk}", f"{talk.capitalize()} of the {noun}", f"The {noun}'s {talk}", talk.capitalize(), ""])
        parameters.append(Parameter(f"p{len(parameters)}", name, type_, note, field_value(name, type_)))
    description = rng.choice(
        [f"{verb.capitalize()} a {noun}.", f"{verb.capitalize()} the {noun}", f"Use this to {verb} a {noun}.", f"{verb.capitalize()}s {noun}s."]
    )
    name = styled([verb, noun], rng)
    return Tool("made_up", name, description, tuple(parameters), sentences_for(name, verb, noun, parameters, rng))


def sentences_for(name: str, verb: str, noun: str, parameters: list[Parameter], rng: random.Random) -> tuple[str, ...]:
    def listed(form: str, separator: str, last: str) -> str:
        parts = [form.format(name=p.name, talk=p.name.replace("_", " "), slot="{" + p.key + "}") for p in parameters]
        return separator.join(parts[:-1]) + last + parts[-1] if len(parts) > 1 else parts[0]

    article = rng.choice(["the ", "a ", ""])
    plain = [
        f"{verb.capitalize()} {article}{noun} with " + listed("{talk} {slot}", ", ", " and "),
        f"{verb.capitalize()} {article}{noun}: " + listed("{talk} {slot}", ", ", ", "),
        f"{verb.capitalize()} {article}{noun} where " + listed("{talk} is {slot}", ", ", " and "),
        f"Call {name} with " + listed("{name} {slot}", ", ", " and "),
        f"Call {name} with " + listed("{name}={slot}", ", ", ", "),
        f"Use {name} with " + listed("{name} set to {slot}", ", ", " and "),
        f"Use `{name}`: " + listed("{name} is {slot}", ", ", ", "),
        f"Run {name}(" + listed("{name}={slot}", ", ", ", ") + ")",
        f"I want to {verb} {article}{noun}. " + listed("The {talk} is {slot}", ". ", ". "),
        f"{verb.capitalize()} {article}{noun}, " + listed("{talk} = {slot}", ", ", ", "),
        f"{verb.capitalize()} {article}{noun}. " + listed("{talk}: {slot}", "; ", "; "),
        f"We need to {verb} {article}{noun} with " + listed("the {talk} {slot}", ", ", " and "),
    ]
    if len(parameters) == 1:
        slot = "{" + parameters[0].key + "}"
        if parameters[0].type in ("string", "integer"):
            plain += [f"{verb.capitalize()} the {noun} {slot}", f"{verb.capitalize()} {noun} {slot}"] * 2
    return tuple(plain)
