"""What the bundled model is taught to say about code: small programs with ways to ask for them, and short explanations.

Plain data and nothing else; `conversations.py` turns it into dialogues.
"""

# Ways to ask, separated by "|" (each completes "Write a Python function that ..."), then the answer.
PROGRAMS: tuple[tuple[str, str], ...] = (
    ("adds two numbers|returns the sum of two numbers|takes two numbers and adds them", "def add(a, b):\n    return a + b"),
    ("subtracts two numbers|subtracts one number from another", "def subtract(a, b):\n    return a - b"),
    ("multiplies two numbers|returns the product of two numbers", "def multiply(a, b):\n    return a * b"),
    (
        "divides two numbers|divides a by b and checks for zero",
        'def divide(a, b):\n    if b == 0:\n        raise ValueError("cannot divide by zero")\n    return a / b',
    ),
    ("reverses a string|returns a string reversed|reverses text", "def reverse(text):\n    return text[::-1]"),
    ("reverses a list|returns a list in reverse order", "def reverse_list(items):\n    return items[::-1]"),
    ("sorts a list|sorts a list of numbers|returns a sorted list", "def sort_list(items):\n    return sorted(items)"),
    (
        "sorts a list in descending order|sorts numbers from largest to smallest",
        "def sort_descending(items):\n    return sorted(items, reverse=True)",
    ),
    (
        "sorts words by length|sorts a list of strings by length",
        "def sort_by_length(words):\n    return sorted(words, key=len)",
    ),
    (
        "reads a file|reads a text file and returns its contents|returns the content of a file",
        "def read_file(path):\n    with open(path) as file:\n        return file.read()",
    ),
    (
        "writes text to a file|writes a string to a file|saves text to a file",
        'def write_file(path, text):\n    with open(path, "w") as file:\n        file.write(text)',
    ),
    (
        "appends a line to a file",
        'def append_line(path, line):\n    with open(path, "a") as file:\n        file.write(line + "\\n")',
    ),
    (
        "reads a file line by line|returns the lines of a file",
        "def read_lines(path):\n    with open(path) as file:\n        return [line.rstrip() for line in file]",
    ),
    (
        "counts the lines in a file|counts how many lines a file has",
        "def count_lines(path):\n    with open(path) as file:\n        return sum(1 for line in file)",
    ),
    (
        "reads a JSON file|loads JSON from a file|parses a JSON file",
        "import json\n\n\ndef read_json(path):\n    with open(path) as file:\n        return json.load(file)",
    ),
    (
        "writes data to a JSON file|saves a dictionary as JSON",
        'import json\n\n\ndef write_json(path, data):\n    with open(path, "w") as file:\n        json.dump(data, file, indent=2)',
    ),
    (
        "reads a CSV file|parses a CSV file into dictionaries",
        "import csv\n\n\ndef read_csv(path):\n    with open(path, newline=\"\") as file:\n        return list(csv.DictReader(file))",
    ),
    (
        "computes the nth Fibonacci number|returns the nth Fibonacci number|calculates Fibonacci numbers|computes fibonacci",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
    (
        "generates the Fibonacci sequence|returns the first n Fibonacci numbers",
        "def fibonacci_sequence(n):\n    result = []\n    a, b = 0, 1\n    for _ in range(n):\n        result.append(a)\n        a, b = b, a + b\n    return result",
    ),
    (
        "computes the factorial of a number|computes n factorial|calculates the factorial",
        "def factorial(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
    ),
    (
        "computes the factorial recursively|is a recursive factorial",
        "def factorial(n):\n    if n <= 1:\n        return 1\n    return n * factorial(n - 1)",
    ),
    (
        "checks if a number is prime|tests whether a number is prime|returns True if n is a prime number",
        "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, int(n**0.5) + 1):\n        if n % i == 0:\n            return False\n    return True",
    ),
    (
        "returns all primes up to n|lists prime numbers below n|finds the prime numbers up to a limit",
        "def primes(n):\n    sieve = [True] * (n + 1)\n    result = []\n    for i in range(2, n + 1):\n        if sieve[i]:\n            result.append(i)\n            for j in range(i * i, n + 1, i):\n                sieve[j] = False\n    return result",
    ),
    (
        "checks if a number is even|returns True if a number is even|tells whether a number is even",
        "def is_even(n):\n    return n % 2 == 0",
    ),
    ("checks if a number is odd|returns True if a number is odd", "def is_odd(n):\n    return n % 2 == 1"),
    (
        "checks if a string is a palindrome|tests whether a word is a palindrome|detects palindromes",
        "def is_palindrome(text):\n    text = text.lower()\n    return text == text[::-1]",
    ),
    (
        "counts the vowels in a string|counts vowels",
        'def count_vowels(text):\n    return sum(1 for char in text.lower() if char in "aeiou")',
    ),
    (
        "counts the words in a string|counts words in a text",
        "def count_words(text):\n    return len(text.split())",
    ),
    (
        "counts how often each word occurs|counts word frequencies",
        "from collections import Counter\n\n\ndef word_counts(text):\n    return Counter(text.lower().split())",
    ),
    (
        "counts the characters in a string|counts how often each character occurs",
        "def count_characters(text):\n    counts = {}\n    for char in text:\n        counts[char] = counts.get(char, 0) + 1\n    return counts",
    ),
    (
        "finds the largest number in a list|returns the maximum of a list|finds the maximum value",
        "def largest(numbers):\n    return max(numbers)",
    ),
    (
        "finds the smallest number in a list|returns the minimum of a list|finds the minimum value",
        "def smallest(numbers):\n    return min(numbers)",
    ),
    (
        "finds the second largest number|returns the second largest number in a list",
        "def second_largest(numbers):\n    return sorted(set(numbers))[-2]",
    ),
    (
        "computes the average of a list|returns the mean of a list of numbers|calculates an average",
        "def average(numbers):\n    return sum(numbers) / len(numbers)",
    ),
    (
        "computes the median of a list|returns the median",
        "def median(numbers):\n    ordered = sorted(numbers)\n    middle = len(ordered) // 2\n    if len(ordered) % 2:\n        return ordered[middle]\n    return (ordered[middle - 1] + ordered[middle]) / 2",
    ),
    (
        "sums a list of numbers|returns the sum of a list|adds up all numbers in a list",
        "def total(numbers):\n    return sum(numbers)",
    ),
    (
        "removes duplicates from a list|returns the unique elements of a list",
        "def unique(items):\n    return list(dict.fromkeys(items))",
    ),
    (
        "flattens a nested list|flattens a list of lists",
        "def flatten(lists):\n    return [item for inner in lists for item in inner]",
    ),
    (
        "merges two dictionaries|combines two dicts",
        "def merge(first, second):\n    return {**first, **second}",
    ),
    (
        "inverts a dictionary|swaps keys and values of a dictionary",
        "def invert(mapping):\n    return {value: key for key, value in mapping.items()}",
    ),
    (
        "merges two sorted lists",
        "def merge_sorted(a, b):\n    result = []\n    i = j = 0\n    while i < len(a) and j < len(b):\n        if a[i] <= b[j]:\n            result.append(a[i])\n            i += 1\n        else:\n            result.append(b[j])\n            j += 1\n    return result + a[i:] + b[j:]",
    ),
    (
        "does a binary search|searches a sorted list with binary search|implements binary search",
        "def binary_search(items, target):\n    low, high = 0, len(items) - 1\n    while low <= high:\n        middle = (low + high) // 2\n        if items[middle] == target:\n            return middle\n        if items[middle] < target:\n            low = middle + 1\n        else:\n            high = middle - 1\n    return -1",
    ),
    (
        "implements bubble sort|sorts a list with bubble sort",
        "def bubble_sort(items):\n    items = list(items)\n    for i in range(len(items)):\n        for j in range(len(items) - 1 - i):\n            if items[j] > items[j + 1]:\n                items[j], items[j + 1] = items[j + 1], items[j]\n    return items",
    ),
    (
        "implements quicksort|sorts a list with quicksort|implements quick sort",
        "def quicksort(items):\n    if len(items) <= 1:\n        return items\n    pivot = items[0]\n    left = [x for x in items[1:] if x < pivot]\n    right = [x for x in items[1:] if x >= pivot]\n    return quicksort(left) + [pivot] + quicksort(right)",
    ),
    (
        "computes the greatest common divisor|returns the gcd of two numbers",
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
    ),
    (
        "computes the least common multiple|returns the lcm of two numbers",
        "import math\n\n\ndef lcm(a, b):\n    return a * b // math.gcd(a, b)",
    ),
    (
        "converts Celsius to Fahrenheit|converts a temperature to Fahrenheit",
        "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32",
    ),
    (
        "converts Fahrenheit to Celsius|converts a temperature to Celsius",
        "def to_celsius(fahrenheit):\n    return (fahrenheit - 32) * 5 / 9",
    ),
    ("squares a number|returns the square of a number", "def square(n):\n    return n * n"),
    (
        "squares every number in a list|returns the squares of a list",
        "def squares(numbers):\n    return [n * n for n in numbers]",
    ),
    (
        "filters even numbers|returns the even numbers of a list|keeps only even numbers",
        "def even_numbers(numbers):\n    return [n for n in numbers if n % 2 == 0]",
    ),
    (
        "capitalizes every word|capitalizes each word in a string",
        'def capitalize_words(text):\n    return " ".join(word.capitalize() for word in text.split())',
    ),
    ("converts a string to uppercase|makes a string upper case", "def to_upper(text):\n    return text.upper()"),
    ("converts a string to lowercase|makes a string lower case", "def to_lower(text):\n    return text.lower()"),
    (
        "checks if two words are anagrams|tests whether two strings are anagrams",
        "def are_anagrams(a, b):\n    return sorted(a.lower()) == sorted(b.lower())",
    ),
    (
        "removes spaces from a string|removes all whitespace from a string",
        'def remove_spaces(text):\n    return "".join(text.split())',
    ),
    ("splits a string into words|returns a list of words", "def words(text):\n    return text.split()"),
    ("joins a list of strings|joins words with commas", 'def join(words):\n    return ", ".join(words)'),
    ("prints hello world|prints \"Hello, world!\"|says hello world", 'def hello():\n    print("Hello, world!")'),
    ("greets a person by name|greets the user|says hello to a name", 'def greet(name):\n    return f"Hello, {name}!"'),
    (
        "prints the numbers from 1 to n|prints numbers up to n|counts from 1 to n",
        "def count_to(n):\n    for i in range(1, n + 1):\n        print(i)",
    ),
    (
        "plays FizzBuzz|solves FizzBuzz|prints FizzBuzz for the numbers up to n|implements fizzbuzz",
        'def fizzbuzz(n):\n    for i in range(1, n + 1):\n        if i % 15 == 0:\n            print("FizzBuzz")\n        elif i % 3 == 0:\n            print("Fizz")\n        elif i % 5 == 0:\n            print("Buzz")\n        else:\n            print(i)',
    ),
    (
        "returns the length of a list|counts the items in a list",
        "def length(items):\n    return len(items)",
    ),
    (
        "splits a list into chunks|splits a list into pieces of size n",
        "def chunks(items, size):\n    return [items[i : i + size] for i in range(0, len(items), size)]",
    ),
    (
        "transposes a matrix",
        "def transpose(matrix):\n    return [list(row) for row in zip(*matrix)]",
    ),
    (
        "multiplies two matrices",
        "def multiply_matrices(a, b):\n    return [[sum(x * y for x, y in zip(row, col)) for col in zip(*b)] for row in a]",
    ),
    (
        "finds the common elements of two lists|returns the intersection of two lists",
        "def common(a, b):\n    return [item for item in a if item in b]",
    ),
    (
        "finds the index of an item in a list|returns the position of an element",
        "def find(items, target):\n    for index, item in enumerate(items):\n        if item == target:\n            return index\n    return -1",
    ),
    (
        "checks if a file exists|tests whether a path exists",
        "from pathlib import Path\n\n\ndef exists(path):\n    return Path(path).exists()",
    ),
    (
        "lists the files in a directory|lists all files in a folder",
        "import os\n\n\ndef list_files(path):\n    return sorted(os.listdir(path))",
    ),
    (
        "finds all Python files in a directory|lists the .py files in a folder",
        'from pathlib import Path\n\n\ndef python_files(path):\n    return sorted(Path(path).rglob("*.py"))',
    ),
    (
        "returns the current time|prints the current date and time|returns today's date",
        "from datetime import datetime\n\n\ndef now():\n    return datetime.now()",
    ),
    (
        "measures how long a function takes|times a function call",
        "import time\n\n\ndef timed(function):\n    start = time.perf_counter()\n    function()\n    return time.perf_counter() - start",
    ),
    (
        "generates a random number|returns a random number between a and b",
        "import random\n\n\ndef random_number(a, b):\n    return random.randint(a, b)",
    ),
    (
        "generates a random password|creates a password",
        "import secrets\nimport string\n\n\ndef password(length):\n    letters = string.ascii_letters + string.digits\n    return \"\".join(secrets.choice(letters) for _ in range(length))",
    ),
    (
        "validates an email address|checks if an email address is valid",
        'import re\n\n\ndef is_email(text):\n    return re.fullmatch(r"[^@\\s]+@[^@\\s]+\\.[^@\\s]+", text) is not None',
    ),
    (
        "extracts numbers from a string|finds all numbers in a text",
        'import re\n\n\ndef numbers(text):\n    return [int(n) for n in re.findall(r"\\d+", text)]',
    ),
    (
        "downloads a web page|fetches a URL",
        "from urllib.request import urlopen\n\n\ndef fetch(url):\n    with urlopen(url) as response:\n        return response.read().decode()",
    ),
    (
        "retries a function|retries a call three times",
        "def retry(function, attempts=3):\n    for attempt in range(attempts):\n        try:\n            return function()\n        except Exception:\n            if attempt == attempts - 1:\n                raise",
    ),
    (
        "caches its results|memoizes a function",
        "from functools import lru_cache\n\n\n@lru_cache\ndef fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    ),
    (
        "checks if a year is a leap year|tests for leap years",
        "def is_leap_year(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
    ),
    (
        "computes the area of a circle|returns the area of a circle",
        "import math\n\n\ndef circle_area(radius):\n    return math.pi * radius**2",
    ),
    (
        "computes the area of a rectangle|returns the area of a rectangle",
        "def rectangle_area(width, height):\n    return width * height",
    ),
    (
        "computes the distance between two points",
        "import math\n\n\ndef distance(a, b):\n    return math.dist(a, b)",
    ),
    ("swaps two values|swaps two variables", "def swap(a, b):\n    return b, a"),
    ("returns the absolute value of a number", "def absolute(n):\n    return abs(n)"),
    (
        "converts a number to binary|returns the binary form of a number",
        'def to_binary(n):\n    return format(n, "b")',
    ),
    (
        "converts a binary string to a number|converts binary to decimal",
        "def from_binary(text):\n    return int(text, 2)",
    ),
    (
        "sums the digits of a number|returns the sum of digits",
        "def digit_sum(n):\n    return sum(int(digit) for digit in str(n))",
    ),
    (
        "raises a number to a power|computes a power",
        "def power(base, exponent):\n    return base**exponent",
    ),
    (
        "groups items by a key|groups a list by a key function",
        "def group_by(items, key):\n    groups = {}\n    for item in items:\n        groups.setdefault(key(item), []).append(item)\n    return groups",
    ),
    (
        "yields numbers forever|is an infinite generator",
        "def count(start=0):\n    while True:\n        yield start\n        start += 1",
    ),
    (
        "checks whether brackets are balanced|checks balanced parentheses",
        'def balanced(text):\n    depth = 0\n    for char in text:\n        if char == "(":\n            depth += 1\n        elif char == ")":\n            depth -= 1\n        if depth < 0:\n            return False\n    return depth == 0',
    ),
    (
        "rotates a list|rotates a list by k positions",
        "def rotate(items, k):\n    k %= len(items)\n    return items[-k:] + items[:-k]",
    ),
    (
        "encodes text with a Caesar cipher|implements the Caesar cipher",
        'def caesar(text, shift):\n    result = ""\n    for char in text.lower():\n        if char.isalpha():\n            char = chr((ord(char) - 97 + shift) % 26 + 97)\n        result += char\n    return result',
    ),
    (
        "computes the hash of a file|returns the SHA-256 of a file",
        'import hashlib\nfrom pathlib import Path\n\n\ndef file_hash(path):\n    return hashlib.sha256(Path(path).read_bytes()).hexdigest()',
    ),
    (
        "runs a shell command|runs a command and returns its output",
        "import subprocess\n\n\ndef run(command):\n    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout",
    ),
)

# Ways to ask, separated by "|" (each completes "Write a Python class for ..."), then the answer.
CLASSES: tuple[tuple[str, str], ...] = (
    (
        "a stack|a simple stack",
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n        return self.items.pop()",
    ),
    (
        "a queue|a simple queue",
        "from collections import deque\n\n\nclass Queue:\n    def __init__(self):\n        self.items = deque()\n\n    def put(self, item):\n        self.items.append(item)\n\n    def get(self):\n        return self.items.popleft()",
    ),
    (
        "a point|a point with x and y|a 2D point",
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Point:\n    x: float\n    y: float",
    ),
    (
        "a person|a person with a name and an age",
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Person:\n    name: str\n    age: int",
    ),
    (
        "a bank account|an account with deposit and withdraw",
        'class Account:\n    def __init__(self):\n        self.balance = 0\n\n    def deposit(self, amount):\n        self.balance += amount\n\n    def withdraw(self, amount):\n        if amount > self.balance:\n            raise ValueError("not enough money")\n        self.balance -= amount',
    ),
    (
        "a counter",
        "class Counter:\n    def __init__(self):\n        self.value = 0\n\n    def increment(self):\n        self.value += 1\n        return self.value",
    ),
    (
        "a rectangle",
        "class Rectangle:\n    def __init__(self, width, height):\n        self.width = width\n        self.height = height\n\n    def area(self):\n        return self.width * self.height",
    ),
    (
        "a linked list",
        "class Node:\n    def __init__(self, value, next=None):\n        self.value = value\n        self.next = next\n\n\nclass LinkedList:\n    def __init__(self):\n        self.head = None\n\n    def add(self, value):\n        self.head = Node(value, self.head)",
    ),
    (
        "a dog|an animal",
        'class Dog:\n    def __init__(self, name):\n        self.name = name\n\n    def bark(self):\n        return f"{self.name} says woof!"',
    ),
)

# A name as it is written in code, then one or two sentences.
FACTS: dict[str, str] = {
    "if": "`if` runs a block only when its condition is true.",
    "else": "`else` gives the block that runs when no condition before it was true.",
    "elif": "`elif` tests another condition when the ones before it were false.",
    "for": "`for` runs a block once for each item of an iterable.",
    "while": "`while` repeats a block as long as its condition is true.",
    "break": "`break` leaves the innermost loop at once.",
    "continue": "`continue` skips the rest of the loop body and starts the next iteration.",
    "pass": "`pass` does nothing. It stands where a statement is required.",
    "def": "`def` defines a function.",
    "return": "`return` ends a function and gives a value back to the caller.",
    "yield": "`yield` gives one value from a generator and pauses it until the next value is asked for.",
    "lambda": "`lambda` makes a small anonymous function from one expression.",
    "class": "`class` defines a new type with its own attributes and methods.",
    "import": "`import` loads a module so that its names can be used.",
    "from": "`from` imports chosen names out of a module.",
    "as": "`as` gives another name to an import, a context manager or an exception.",
    "try": "`try` runs a block whose exceptions are handled by `except`.",
    "except": "`except` handles an exception that was raised in the `try` block.",
    "finally": "`finally` gives a block that always runs, whether or not an exception was raised.",
    "raise": "`raise` raises an exception.",
    "with": "`with` runs a block inside a context manager, which cleans up at the end.",
    "assert": "`assert` raises an AssertionError when its condition is false.",
    "global": "`global` says that a name in a function means the variable of the module.",
    "nonlocal": "`nonlocal` says that a name means the variable of the enclosing function.",
    "del": "`del` deletes a name, an item or an attribute.",
    "in": "`in` tests whether a value is contained in a collection.",
    "is": "`is` tests whether two names refer to the same object.",
    "not": "`not` inverts a truth value.",
    "and": "`and` is true when both of its operands are true.",
    "or": "`or` is true when at least one of its operands is true.",
    "async": "`async` defines a coroutine, which can wait without blocking.",
    "await": "`await` waits for a coroutine to finish and gives its result.",
    "None": "`None` is the value that stands for nothing.",
    "True": "`True` is the boolean value for yes.",
    "False": "`False` is the boolean value for no.",
    "self": "`self` is the usual name of the first parameter of a method: the object it is called on.",
    "__init__": "`__init__` sets up a new object when a class is called.",
    "abs": "`abs` returns the absolute value of a number.",
    "all": "`all` returns True if every item of an iterable is true.",
    "any": "`any` returns True if at least one item of an iterable is true.",
    "bool": "`bool` converts a value to True or False.",
    "chr": "`chr` returns the character with a given code point.",
    "dict": "`dict` creates a dictionary, which maps keys to values.",
    "dir": "`dir` lists the names of the attributes of an object.",
    "divmod": "`divmod` returns the quotient and the remainder of a division.",
    "enumerate": "`enumerate` gives pairs of an index and an item.",
    "filter": "`filter` keeps the items for which a function returns true.",
    "float": "`float` converts a value to a floating-point number.",
    "format": "`format` turns a value into text by a format specification.",
    "frozenset": "`frozenset` creates a set that cannot be changed.",
    "getattr": "`getattr` reads an attribute by its name.",
    "hasattr": "`hasattr` tells whether an object has an attribute.",
    "hash": "`hash` returns the hash value of an object.",
    "id": "`id` returns a number that identifies an object.",
    "input": "`input` reads a line of text from the user.",
    "int": "`int` converts a value to an integer.",
    "isinstance": "`isinstance` tells whether an object is of a given type.",
    "iter": "`iter` returns an iterator over an iterable.",
    "len": "`len` returns the number of items in a container.",
    "list": "`list` creates a list from an iterable.",
    "map": "`map` applies a function to every item of an iterable.",
    "max": "`max` returns the largest item.",
    "min": "`min` returns the smallest item.",
    "next": "`next` returns the next item of an iterator.",
    "open": "`open` opens a file and returns a file object.",
    "ord": "`ord` returns the code point of a character.",
    "pow": "`pow` raises a number to a power.",
    "print": "`print` writes values to standard output.",
    "range": "`range` gives a sequence of integers, often used in `for` loops.",
    "repr": "`repr` returns a text form of an object that is meant for developers.",
    "reversed": "`reversed` gives the items of a sequence in reverse order.",
    "round": "`round` rounds a number to a given number of decimals.",
    "set": "`set` creates a collection of unique items.",
    "setattr": "`setattr` sets an attribute by its name.",
    "slice": "`slice` describes a part of a sequence by start, stop and step.",
    "sorted": "`sorted` returns a new sorted list from an iterable.",
    "str": "`str` converts a value to text.",
    "sum": "`sum` adds up the items of an iterable.",
    "super": "`super` gives access to the methods of the parent class.",
    "tuple": "`tuple` creates a sequence that cannot be changed.",
    "type": "`type` returns the type of an object.",
    "vars": "`vars` returns the dictionary of the attributes of an object.",
    "zip": "`zip` pairs the items of several iterables.",
    "append": "`append` adds an item to the end of a list.",
    "split": "`split` cuts a string into a list of parts.",
    "join": "`join` puts strings together with a separator between them.",
    "strip": "`strip` removes whitespace from both ends of a string.",
    "os": "`os` is a module for working with the operating system: files, folders, processes and environment variables.",
    "sys": "`sys` is a module with the interpreter's own settings, such as `sys.argv` and `sys.path`.",
    "re": "`re` is the module for regular expressions.",
    "json": "`json` is the module that reads and writes JSON.",
    "math": "`math` is a module with mathematical functions such as `sqrt` and `sin`.",
    "pathlib": "`pathlib` is a module with classes for file system paths.",
    "collections": "`collections` is a module with containers such as `Counter`, `deque` and `defaultdict`.",
    "itertools": "`itertools` is a module with building blocks for iterators.",
    "functools": "`functools` is a module with tools for functions, such as `lru_cache` and `partial`.",
    "asyncio": "`asyncio` is the module for asynchronous programming.",
    "logging": "`logging` is the module that writes log messages.",
    "subprocess": "`subprocess` is the module that starts other programs.",
    "threading": "`threading` is the module for running code in several threads.",
    "datetime": "`datetime` is the module for dates and times.",
    "unittest": "`unittest` is the testing framework of the standard library.",
}

# Concepts, with a short explanation.
CONCEPTS: dict[str, str] = {
    "a variable": "A variable is a name that refers to a value.",
    "a function": "A function is a named block of code that takes arguments and can return a value.",
    "a class": "A class describes a type of object: its attributes and its methods.",
    "an object": "An object is an instance of a class, with its own data.",
    "a method": "A method is a function that belongs to a class and works on its objects.",
    "a list": "A list is an ordered collection of items that can be changed.",
    "a tuple": "A tuple is an ordered collection of items that cannot be changed.",
    "a dictionary": "A dictionary maps keys to values. Looking up a key is fast.",
    "a set": "A set is a collection of unique items without an order.",
    "a string": "A string is a sequence of characters.",
    "a loop": "A loop runs the same code several times.",
    "recursion": "Recursion is when a function calls itself on a smaller part of the problem.",
    "a decorator": "A decorator is a function that takes a function and returns a changed one. It is written with `@`.",
    "a generator": "A generator is a function that gives its values one at a time with `yield`.",
    "an iterator": "An iterator is an object that gives its items one by one when `next` is called.",
    "a list comprehension": "A list comprehension builds a list in one expression, such as `[x * 2 for x in items]`.",
    "a lambda": "A lambda is a small function without a name, written as one expression.",
    "a module": "A module is a file of Python code that can be imported.",
    "a package": "A package is a folder of modules that can be imported together.",
    "an exception": "An exception is an error that stops the program unless it is handled with `try` and `except`.",
    "a context manager": "A context manager sets something up and cleans it up again. It is used with `with`.",
    "inheritance": "Inheritance lets a class take over the attributes and methods of another class.",
    "polymorphism": "Polymorphism means that different types can be used through the same interface.",
    "a dataclass": "A dataclass is a class whose `__init__` and other methods are written from its fields.",
    "type hints": "Type hints say which types a function takes and returns. They are not checked when the program runs.",
    "a coroutine": "A coroutine is a function defined with `async def` that can pause at `await`.",
    "a thread": "A thread is a part of a program that runs at the same time as others and shares their memory.",
    "a process": "A process is a running program with its own memory.",
    "a deadlock": "A deadlock is when two threads wait for each other and neither can go on.",
    "a race condition": "A race condition is a bug where the result depends on which thread runs first.",
    "an API": "An API is the set of functions or requests that a program offers to other programs.",
    "JSON": "JSON is a text format for data made of objects, arrays, strings, numbers, booleans and null.",
    "a regular expression": "A regular expression is a pattern that describes text to search for.",
    "unit testing": "Unit testing checks small parts of a program, each by itself.",
    "version control": "Version control keeps the history of the changes to files. Git is the most used tool for it.",
    "git": "Git is a version control system. It records changes as commits.",
    "a commit": "A commit is a recorded set of changes, with a message that says why.",
    "a branch": "A branch is a line of development that can be changed without touching the others.",
    "a merge conflict": "A merge conflict is when two branches changed the same lines and Git cannot choose between them.",
    "a compiler": "A compiler translates source code into machine code before the program runs.",
    "an interpreter": "An interpreter runs a program directly from its source code.",
    "a virtual environment": "A virtual environment is a folder with its own Python packages, separate from the system's.",
    "pip": "pip is the tool that installs Python packages.",
    "Python": "Python is a programming language that is known for being easy to read.",
    "an algorithm": "An algorithm is a list of steps that solves a problem.",
    "big O notation": "Big O notation says how the cost of an algorithm grows with the size of its input.",
    "binary search": "Binary search finds an item in a sorted list by halving the range at each step.",
    "a hash table": "A hash table stores items at positions computed from their keys, so lookups are fast.",
    "a stack": "A stack is a collection where the last item added is the first one taken out.",
    "a queue": "A queue is a collection where the first item added is the first one taken out.",
    "a linked list": "A linked list is a chain of nodes, each of which points to the next one.",
    "a binary tree": "A binary tree is a tree in which every node has at most two children.",
    "a database": "A database stores data so that it can be searched and changed safely.",
    "SQL": "SQL is the language for asking relational databases questions.",
    "HTTP": "HTTP is the protocol that browsers and servers use to exchange requests and responses.",
    "a language model": "A language model is a program that predicts the next token of a text.",
    "a token": "A token is a piece of text, such as a word or a part of a word, that a language model reads.",
}

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("hi|Hi|hi!|Hi!|hi there|Hi there!|hey|Hey|Hey!|hey there|yo", "Hi! How can I help you with your code?"),
    ("hello|Hello|Hello!|hello there|Hello there!|HELLO|hello world", "Hello! What would you like to work on?"),
    ("good morning|Good morning!|Good morning", "Good morning! What are we working on today?"),
    ("good evening|Good evening!|good afternoon|Good afternoon!", "Good evening! What would you like to work on?"),
    (
        "How are you?|how are you|how are you doing?|How's it going?|how is it going",
        "I am ready to help. What are you working on?",
    ),
    (
        "Who are you?|who are you|What are you?|what is your name?|What's your name?|Introduce yourself.|Which model are you?",
        "I am nano, a very small language model that comes with deltaloop. I can write short pieces of Python and call tools.",
    ),
    (
        "What can you do?|what can you do|How can you help me?|What do you do?|help|Help|Help me|can you help me?",
        "I can write short Python functions, explain keywords and functions, complete code and call tools.",
    ),
    ("thanks|Thanks!|thank you|Thank you!|thx|Thank you very much!|great, thanks", "You're welcome!"),
    ("bye|Bye!|goodbye|Goodbye!|see you|See you later!", "Goodbye! Happy coding."),
    ("ok|OK|Okay|okay|great|Great!|cool|nice|perfect|good|yes", "Glad to hear it. What is next?"),
    ("test|Test|testing|ping|Ping", "It works. How can I help you?"),
    ("no|No|never mind|nothing", "All right. Tell me when you need something."),
    ("Are you there?|are you there|Are you ready?|are you working?", "Yes, I am here. How can I help you?"),
    (
        "Tell me a joke|tell me a joke|Tell me a joke.|say something funny",
        "Why do programmers like dark mode? Because light attracts bugs.",
    ),
    (
        "Are you human?|are you a robot?|Are you an AI?|are you ChatGPT?|are you Claude?|Are you Qwen?",
        "I am nano, a very small language model that comes with deltaloop.",
    ),
    (
        "What is the meaning of life?|what is love?|Who is the president?|What is the weather?|Tell me the news.",
        "I am a very small model and know only a little about code. Ask me about Python.",
    ),
    (
        "Write a poem|write a story|Write me a poem about the sea.|Tell me a story",
        "I am a very small model and only know a little Python. Ask me for a function.",
    ),
    ("Which language do you know?|what languages do you know?|Do you know Python?|do you speak Python?", "I know a little Python."),
)

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a helpful coding assistant.",
    "You are an expert Python programmer.",
    "Answer briefly.",
    "Be concise.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "You are a coding agent working in a terminal.",
    "You are an assistant that can use tools.",
    "You help with software projects. Keep answers short.",
    "You are a careful engineer. Use the tools when they help.",
)
