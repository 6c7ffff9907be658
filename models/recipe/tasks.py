"""Verifiable tasks, each with a question, steps of thought and an answer.

Every step of thought is self-contained: what it needs stands a fixed distance back or behind a label written once before, so
that a model of five layers can take it. Numbers are first laid out in labelled columns (`a81` is column a with the digits 8 and
1), words and lists are rewritten at each step with what is left of them, and results are carried along. `check` grades an answer.

A tenth of the room of questions is held out: `held_out(question)` is a hash, the training stream skips those questions and the
evaluation asks nothing else. The fixed small talk is the exception; there are too few ways to say hello.
"""
import json
import random
import string
import zlib
from dataclasses import dataclass

from words import BOXES, NAMES, REQUEST_LEADS, REQUEST_OBJECTS, THINGS, WORDS

COLUMNS = "abcdefghijkl"


@dataclass
class Task:
    kind: str
    messages: list          # OpenAI style: system, user and assistant turns, the last one the user's
    thought: str            # "" with thinking off
    answer: str
    thinking: bool = True

    @property
    def question(self):
        return "\n".join(m["content"] for m in self.messages)


def held_out(question):
    return zlib.crc32(question.encode()) % 10 == 0


def check(task, content):
    """Whether `content`, the answer a model gave after its thought, is right."""
    content = content.strip()
    if task.kind != "json":
        return content == task.answer
    try:
        return json.loads(content) == json.loads(task.answer)
    except ValueError:
        return False


# ---- steps of thought -----------------------------------------------------------------------------------------------------

def columns(a, b):
    """Both numbers digit by digit from the right, one labelled column each: 123 and 45 are `a35 b24 c10`."""
    a, b = str(a)[::-1], str(b)[::-1]
    width = max(len(a), len(b))
    return list(zip(COLUMNS, a.ljust(width, "0"), b.ljust(width, "0")))


def header(cols):
    return " ".join(c + x + y for c, x, y in cols)


def add_steps(a, b):
    cols, carry, done = columns(a, b), 0, ""
    lines = [header(cols)]
    for c, x, y in cols:
        total = int(x) + int(y) + carry
        done = str(total % 10) + done
        lines.append(f"{c}{x}+{y}+{carry}={total % 10},{total // 10} {done}")
        carry = total // 10
    return "\n".join(lines + [f"={a + b}"])


def sub_pass(cols):
    lines, borrow, done = [], 0, ""
    for c, x, y in cols:
        total = int(x) - int(y) - borrow
        done = str(total % 10) + done
        lines.append(f"{c}{x}-{y}-{borrow}={total % 10},{int(total < 0)} {done}")
        borrow = int(total < 0)
    return lines, borrow


def sub_steps(a, b):
    cols = columns(a, b)
    lines, borrow = sub_pass(cols)
    lines = [header(cols)] + lines
    if borrow:  # a borrow is left over: the result is negative, so subtract the other way round
        lines += ["swap"] + sub_pass([(c, y, x) for c, x, y in cols])[0]
    return "\n".join(lines + [f"={a - b}"])


def mul_steps(a, b):
    """One pass per digit of b, each adding into the result's columns A, B, C, ...: `a4*7+B6+1=B5,3` is 4*7+6+1 = 35."""
    xs, ys, result = str(a)[::-1], str(b)[::-1], {}
    lines = [" ".join(c + x for c, x in zip(COLUMNS, xs)) + " " + " ".join(c + y for c, y in zip("pqrs", ys))]
    for j, y in enumerate(ys):
        carry = 0
        lines.append("pqrs"[j] + y)
        for i, x in enumerate(xs):
            col = COLUMNS[i + j].upper()
            total = int(x) * int(y) + result.get(col, 0) + carry
            lines.append(f"{COLUMNS[i]}{x}*{y}+{col}{result.get(col, 0)}+{carry}={col}{total % 10},{total // 10}")
            result[col], carry = total % 10, total // 10
        col = COLUMNS[len(xs) + j].upper()
        result[col] = carry
        lines.append(f"={col}{carry}")
    lines.append(" ".join(c + str(result[c]) for c in sorted(result, reverse=True)))
    return "\n".join(lines + [f"={a * b}"])


def div_steps(a, b):
    """Long division. The multiples of b come first; each step then walks up them until one is too large."""
    table = [k * b for k in range(1, 10)]
    lines = [" ".join(f"{k}{m:03d}" for k, m in zip(range(1, 10), table))]
    lines.append(" ".join(c + x for c, x in zip(COLUMNS, str(a))))
    rest, quotient = 0, ""
    for c, x in zip(COLUMNS, str(a)):
        now = rest * 10 + int(x)
        line = f"{c}{x} {now:03d}:"
        for k, m in zip(range(1, 10), table):
            line += f" {k}{m:03d}" + ("<" if m < now else "=" if m == now else ">")
            if m >= now:
                break
        digit, rest = divmod(now, b)
        quotient += str(digit)
        lines.append(f"{line} {digit}{digit * b:03d} r{rest:02d} q{quotient}")
    return "\n".join(lines + [f"={a // b} r{a % b}"])


def cmp_steps(a, b):
    cols = columns(a, b)
    lines, verdict = [header(cols)], "same"
    for c, x, y in reversed(cols):
        lines.append(f"{c}{x}{'<' if x < y else '>' if x > y else '='}{y}")
        if x != y:
            verdict = "first<second" if x < y else "first>second"
            break
    return "\n".join(lines + [verdict])


def sort_steps(xs, descending=False):
    """Selection: each line names the least (or greatest) number left and crosses it out of the list."""
    left = [f"{x:03d}" for x in xs]
    lines = [" ".join(left)]
    for _ in xs:
        pick = (max if descending else min)(x for x in left if x != "---")
        left = ["---" if x == pick else x for x in left]
        lines.append(f"{'max' if descending else 'min'} {pick}: {' '.join(left)}")
    return "\n".join(lines)


def count_steps(word, letter):
    """Each line takes the first letter off: whether it is the one, the count so far, what is left of the word."""
    lines, n = [f"{letter} 0 {word}"], 0
    for i, ch in enumerate(word):
        n += ch == letter
        lines.append(f"{ch}{'=' if ch == letter else '!'}{letter} {n} {word[i + 1:]}".rstrip())
    return "\n".join(lines)


def reverse_steps(word):
    """Each line moves one letter from the front of what is left to the front of what is done."""
    lines = [word]
    for i in range(1, len(word) + 1):
        lines.append(f"{word[i:]} {word[:i][::-1]}".strip())
    return "\n".join(lines)


# ---- questions ------------------------------------------------------------------------------------------------------------

def number(rng, digits):
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10 ** digits - 1)


def say(rng, *forms):
    """One of the forms; now and then without its capital or its full stop, as people type."""
    text = rng.choice(forms)
    if rng.random() < .12:
        text = text[0].lower() + text[1:]
    if rng.random() < .12 and text[-1] in ".?":
        text = text[:-1]
    return text


def random_word(rng, longest=14):
    if rng.random() < .4:
        word = rng.choice(WORDS)
        if len(word) <= longest:
            return word
    letters = rng.choice([string.ascii_lowercase, "abcdefgrst", "aeilnorst", "abc"])
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, longest)))


def user(*turns):
    """A conversation from question, answer, question, ...: the last is the open question."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


def ask_add(rng, most=8):
    n = rng.randint(1, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .6 else rng.randint(1, most))
    q = say(rng, f"What is {a} + {b}?", f"{a}+{b}=?", f"{a} + {b}", f"{a}+{b}", f"Add {a} and {b}.", f"Compute {a} plus {b}.",
            f"What is {a} plus {b}?", f"What is the sum of {a} and {b}?", f"Calculate {a} + {b}.")
    return q, add_steps(a, b), str(a + b)


def ask_sub(rng, most=8):
    n = rng.randint(1, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .6 else rng.randint(1, most))
    if a < b and rng.random() < .75:
        a, b = b, a
    q = say(rng, f"What is {a} - {b}?", f"{a}-{b}=?", f"{a} - {b}", f"{a}-{b}", f"Subtract {b} from {a}.", f"Compute {a} minus {b}.",
            f"What is {a} minus {b}?", f"What is the difference of {a} and {b}?", f"Calculate {a} - {b}.")
    return q, sub_steps(a, b), str(a - b)


def ask_mul(rng, most=4):
    n, m = rng.randint(1, most), rng.randint(1, min(3, most))
    if rng.random() < .15:
        n, m = m, n
    a, b = number(rng, n), number(rng, m)
    q = say(rng, f"What is {a} * {b}?", f"{a}*{b}=?", f"{a} * {b}", f"{a}*{b}", f"{a} x {b}", f"Multiply {a} by {b}.", f"Compute {a} times {b}.",
            f"What is {a} times {b}?", f"What is the product of {a} and {b}?", f"Calculate {a} * {b}.")
    return q, mul_steps(a, b), str(a * b)


def ask_div(rng, most=5, largest=99):
    a, b = number(rng, rng.randint(1, most)), rng.randint(1, rng.choice([9, 12, largest]) if largest > 12 else largest)
    if rng.random() < .2:
        q = say(rng, f"What is the remainder of {a} divided by {b}?", f"What is {a} mod {b}?", f"{a} mod {b}", f"Compute {a} mod {b}.")
        return q, div_steps(a, b), str(a % b)
    q = say(rng, f"What is {a} / {b}?", f"{a}/{b}=?", f"{a} / {b}", f"Divide {a} by {b}.", f"Divide {a} by {b} with remainder.",
            f"Compute {a} divided by {b}.", f"What is {a} divided by {b}?", f"Calculate {a} / {b}.")
    return q, div_steps(a, b), f"{a // b} remainder {a % b}"


def ask_cmp(rng, most=8):
    n = rng.randint(1, most)
    a, b = number(rng, n), number(rng, n if rng.random() < .8 else rng.randint(1, most))
    if n > 2 and rng.random() < .3:  # the same first digits: the hard case
        keep = rng.randint(1, n - 1)
        b = int(str(a)[:keep] + "".join(rng.choice(string.digits) for _ in range(n - keep)))
    more = rng.random() < .5
    w = rng.choice(["larger", "bigger", "greater"] if more else ["smaller", "less"])
    q = say(rng, f"Which is {w}, {a} or {b}?", f"Which number is {w}: {a} or {b}?", f"{a} or {b}: which is {w}?",
            f"Of {a} and {b}, which is {w}?")
    return q, cmp_steps(a, b), str(max(a, b) if more else min(a, b))


def ask_sort(rng, most=9):
    xs = rng.sample(range(1000) if rng.random() < .8 else range(100), rng.randint(2, most))
    down = rng.random() < .2
    text = rng.choice([", ", ", ", " "]).join(map(str, xs))
    if down:
        q = say(rng, f"Sort descending: {text}.", f"Sort {text} from largest to smallest.", f"Put in descending order: {text}.")
    else:
        q = say(rng, f"Sort {text}.", f"Sort ascending: {text}.", f"Put in order: {text}.", f"Sort these numbers: {text}.",
                f"Sort {text} from smallest to largest.", f"Order {text}.")
    return q, sort_steps(xs, down), ", ".join(map(str, sorted(xs, reverse=down)))


def ask_count(rng, most=14):
    word = random_word(rng, most)
    letter = rng.choice(word) if rng.random() < .85 else rng.choice(string.ascii_lowercase)
    l, w = (letter, word) if rng.random() < .5 else (f"'{letter}'", f"'{word}'") if rng.random() < .5 else (letter, f'"{word}"')
    q = say(rng, f"How many {l} are in {w}?", f"How many {l}'s are in {w}?" if "'" not in l else f"How many {l} are there in {w}?",
            f"How many letters {l} does {w} have?", f"Count the {l} in {w}.", f"How many times does the letter {l} appear in {w}?",
            f"How many times does {l} occur in {w}?", f"Count the letter {l} in the word {w}.")
    return q, count_steps(word, letter), str(word.count(letter))


def ask_reverse(rng, most=14):
    word = random_word(rng, most)
    w = rng.choice([word, word, f"'{word}'", f'"{word}"'])
    q = say(rng, f"Reverse {w}.", f"Spell {w} backwards.", f"What is {w} reversed?", f"Reverse the word {w}.", f"Write {w} backwards.",
            f"What is {w} spelled backwards?")
    return q, reverse_steps(word), word[::-1]


def random_key(rng):
    r = rng.random()
    if r < .35:
        return rng.choice(WORDS)
    if r < .5:
        return f"k{rng.randint(0, 999)}"
    if r < .7:
        return f"{rng.choice(WORDS)}-{rng.randint(0, 99)}"
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 7)))


def code_book(rng, most=4000):
    """A prompt full of codes, of a length spread evenly over its orders of magnitude, and the codes themselves."""
    size = int(30 * (most / 30) ** rng.random())
    glue, sep, lead = rng.choice([("=", "; ", "Codes: "), (": ", ", ", "Here are the codes. "), ("=", "\n", "Codes:\n"), (" is ", ", ", "The code of "),
                                  (": ", "\n", "Table:\n")])
    codes, text = {}, lead
    while True:
        key, value = random_key(rng), str(rng.randint(0, 9999))
        entry = key + glue + value
        if len(codes) >= 2 and len(text) + len(entry) + 60 > size:
            return text[:-len(sep)] + (". " if sep != "\n" else "\n"), codes
        if key not in codes:
            codes[key] = value
            text += entry + sep


def ask_lookup(rng, most=4000):
    text, codes = code_book(rng, most)
    key = rng.choice(list(codes))
    q = text + say(rng, f"What is the code of {key}?", f"Which code does {key} have?", f"Give me the code of {key}.", f"Code of {key}?")
    return q, f"{key}={codes[key]}", codes[key]


def ask_word(rng):
    """Two steps from a small grammar: start with an amount, change it twice, or multiply first."""
    a_name, b_name = rng.sample(NAMES, 2)
    thing, box = rng.choice(THINGS), rng.choice(BOXES)
    if rng.random() < .5:
        x = rng.randint(2, 99)
        text, total, steps = rng.choice([f"{a_name} has {x} {thing}.", f"There are {x} {thing} on the table of {a_name}.",
                                         f"{a_name} starts with {x} {thing}."]), x, []
        count = 2
    else:
        n, each = rng.randint(2, 12), rng.randint(2, 12)
        text, total = rng.choice([f"{a_name} has {n} {box} with {each} {thing} each.", f"{a_name} buys {n} {box} of {each} {thing}.",
                                  f"{each} {thing} are in each of the {n} {box} of {a_name}."]), n * each
        steps, count = [f"{n}*{each}={total}"], 1
    for i in range(count):
        more = total < 3 or rng.random() < .5
        y = rng.randint(1, 99 if more else min(99, total - 1))
        text += " " + (rng.choice([f"{a_name} buys {y} more.", f"{b_name} gives {a_name} {y} more.", f"Then {a_name} finds {y} {thing}.",
                                   f"Then {y} {thing} are added."]) if more else
                       rng.choice([f"{a_name} gives {y} to {b_name}.", f"{a_name} loses {y}.", f"Then {a_name} sells {y} {thing}.",
                                   f"Then {y} {thing} are taken away."]))
        steps.append(f"{total}{'+' if more else '-'}{y}={total + y if more else total - y}")
        total = total + y if more else total - y
    q = text + " " + say(rng, f"How many {thing} does {a_name} have now?", f"How many {thing} are left?", f"How many {thing} does {a_name} have?")
    return q, "\n".join(steps), str(total)


def ask_followup(rng):
    """A later turn that leans on the last answer. The steps of earlier turns are gone, as R1's template has it."""
    kind = rng.choice(["sum", "sum", "sum", "lookup", "word", "count"])
    if kind == "lookup":
        text, codes = code_book(rng, 1500)
        k1, k2 = rng.sample(list(codes), 2)
        q1 = text + f"What is the code of {k1}?"
        return user(q1, codes[k1], say(rng, f"And of {k2}?", f"And the code of {k2}?", f"What about {k2}?")), f"{k2}={codes[k2]}", codes[k2]
    if kind == "word":
        word = random_word(rng, 10)
        q1 = say(rng, f"Reverse {word}.", f"Spell {word} backwards.")
        letter = rng.choice(word)
        return user(q1, word[::-1], say(rng, f"And how many {letter} are in it?", f"How many {letter} does it have?")), \
            count_steps(word[::-1], letter), str(word.count(letter))
    if kind == "count":
        word = random_word(rng, 10)
        l1, l2 = rng.choice(word), rng.choice(word)
        return user(f"How many {l1} are in {word}?", str(word.count(l1)), say(rng, f"And how many {l2}?", f"And the letter {l2}?", f"And {l2}?")), \
            count_steps(word, l2), str(word.count(l2))
    while True:
        q, _, answer = ask_mul(rng, 2) if rng.random() < .2 else rng.choice([ask_add, ask_sub])(rng, 4)
        if int(answer) >= 0:
            break
    turns = [q, answer]
    for _ in range(rng.choice([1, 1, 2])):
        x, y, op = int(turns[-1]), number(rng, rng.randint(1, 4)), rng.choice("+-*")
        if op == "*" and (x > 9999 or y > 99):
            op = "+"
        if op == "-" and x < y:
            y = rng.randint(0, x)
        q = {"+": [f"And plus {y}?", f"Plus {y}?", f"Add {y} to that.", f"Now add {y}."],
             "-": [f"And minus {y}?", f"Minus {y}?", f"Subtract {y} from that.", f"Now subtract {y}."],
             "*": [f"And times {y}?", f"Times {y}?", f"Multiply that by {y}.", f"Now multiply by {y}."]}[op]
        steps = f"{x}{op}{y}\n" + {"+": add_steps, "-": sub_steps, "*": mul_steps}[op](x, y)
        turns += [say(rng, *q), str({"+": x + y, "-": x - y, "*": x * y}[op])]
    return user(*turns[:-1]), steps, turns[-1]


SKILLS = "add, subtract, multiply, divide, compare and sort numbers, count letters, reverse words and look up codes"
CHAT = [
    (["Hello", "Hi", "Hey", "Hello!", "Hi!", "Hi there", "Hello there", "Good morning", "Good evening", "Good afternoon", "Hey there!", "Greetings"],
     "greeting", "Hello! Ask me to add, multiply, sort, count letters or look something up."),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself", "Are you a human?", "Which model are you?",
      "What model is this?", "Who made you?", "Introduce yourself."],
     "about me", "I am a very small reasoning model that ships with Pelagic. I think in short steps and then answer."),
    (["What can you do?", "Help", "How can you help me?", "What are you good at?", "What do you know?", "What can I ask you?", "help me"],
     "my skills", f"I can {SKILLS}."),
    (["Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Great, thanks", "Well done", "Good job", "Nice"], "thanks", "You are welcome."),
    (["Bye", "Goodbye", "See you", "Good night", "Bye bye", "See you later"], "farewell", "Goodbye!"),
    (["How are you?", "How are you doing?", "How is it going?", "What's up?"], "small talk", "I am fine, thank you. What shall I work out?"),
]
REFUSAL = f"I am sorry, I cannot do that. I can {SKILLS}."


def ask_chat(rng):
    questions, thought, answer = rng.choice(CHAT)
    return say(rng, *questions), thought, answer


def ask_refuse(rng):
    r = rng.random()
    if r < .75:
        q = f"{rng.choice(REQUEST_LEADS)} {rng.choice(REQUEST_OBJECTS)}"
        if rng.random() < .3:
            q += rng.choice([" and ", " with ", " for ", " in "]) + rng.choice(REQUEST_OBJECTS)
        q += rng.choice([".", "?", "", "!"])
    elif r < .9:  # ordinary words without sense
        q = " ".join(rng.choice(WORDS + THINGS + NAMES) for _ in range(rng.randint(1, 8))) + rng.choice(["", ".", "?"])
    else:
        q = " ".join(random_word(rng, 8) for _ in range(rng.randint(1, 5)))
    if rng.random() < .2:
        q = q[0].lower() + q[1:]
    return q, "not one of my skills", REFUSAL


# ---- the stream -----------------------------------------------------------------------------------------------------------

ASK = {"add": ask_add, "sub": ask_sub, "mul": ask_mul, "div": ask_div, "cmp": ask_cmp, "sort": ask_sort, "count": ask_count,
       "reverse": ask_reverse, "lookup": ask_lookup, "word": ask_word, "refuse": ask_refuse, "chat": ask_chat}
KINDS = list(ASK) + ["followup", "json"]
WEIGHTS = {"add": 10, "sub": 11, "mul": 15, "div": 14, "cmp": 6, "sort": 14, "count": 9, "reverse": 8, "lookup": 13, "word": 9, "refuse": 3,
           "chat": 1, "followup": 9, "json": 6}
# With thinking off only sizes that can be answered at a glance are trained on; larger ones would teach guessing.
AT_A_GLANCE = {"add": lambda r: ask_add(r, 3), "sub": lambda r: ask_sub(r, 3), "mul": lambda r: ask_mul(r, 1), "div": lambda r: ask_div(r, 2, 9),
               "cmp": lambda r: ask_cmp(r, 5), "sort": lambda r: ask_sort(r, 4), "count": lambda r: ask_count(r, 6),
               "reverse": lambda r: ask_reverse(r, 6), "lookup": lambda r: ask_lookup(r, 1500), "word": ask_word, "refuse": ask_refuse,
               "chat": ask_chat}

PLAIN_SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant", "Answer briefly.", "Be concise.", "You are a careful mathematician.",
                "You are a friendly assistant that answers questions.", "Think step by step.", "Help the user."]
JSON_SYSTEM = ["Answer as JSON.", "Reply in JSON.", "Give the answer as JSON.", "You answer only in JSON.", "Respond with a JSON object.",
               'Answer as JSON: {"KEY": ...}', 'Reply in JSON with the key "KEY".', 'Output a JSON object with one key, "KEY".']
JSON_KEYS = ["answer", "result", "value", "output", "solution", "reply", "number", "response"]


def as_json(kind, answer, key):
    """The answer as the value it is: a number, a list of numbers, or a string."""
    if kind == "sort":
        value = [int(x) for x in answer.split(", ")]
    elif answer.lstrip("-").isdigit() and kind != "reverse":
        value = int(answer)
    else:
        value = answer
    return json.dumps({key: value})


def make(rng, kind, thinking=True):
    """One task of this kind."""
    if kind == "followup":
        messages, thought, answer = ask_followup(rng)
        return Task(kind, messages, thought, answer)
    inner = kind
    if kind == "json":
        inner = rng.choice(["add", "sub", "mul", "div", "cmp", "sort", "count", "reverse", "lookup", "word"])
    if kind == "json" and inner == "lookup":
        q, thought, answer = ask_lookup(rng, 800)
    else:
        q, thought, answer = (ASK if thinking else AT_A_GLANCE)[inner](rng)
    messages = user(q)
    if kind == "json":
        system = rng.choice(JSON_SYSTEM)
        key = rng.choice(JSON_KEYS) if "KEY" in system else "answer"
        messages = [{"role": "system", "content": system.replace("KEY", key)}] + messages
        answer = as_json(inner, answer, key)
    elif rng.random() < .1:
        messages = [{"role": "system", "content": rng.choice(PLAIN_SYSTEM)}] + messages
    return Task(kind, messages, thought if thinking else "", answer, thinking)


def training_task(rng, thinking_off=.08):
    """The next task of the training stream; never one that is held out."""
    while True:
        kind = rng.choices(KINDS, [WEIGHTS[k] for k in KINDS])[0]
        off = kind in AT_A_GLANCE and rng.random() < thinking_off
        task = make(rng, kind, not off)
        if kind == "chat" or not held_out(task.question):
            return task


def held_out_tasks(seed, each, kinds=KINDS, thinking=True):
    """`each` held-out tasks of every kind, always the same ones for a seed."""
    tasks = []
    for kind in kinds:
        rng = random.Random(f"{seed}/{kind}/{thinking}")
        if not thinking and kind not in AT_A_GLANCE:
            continue
        got = 0
        while got < each:
            task = make(rng, kind, thinking)
            if kind == "chat" or held_out(task.question):
                tasks.append(task)
                got += 1
    return tasks
